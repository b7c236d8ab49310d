"""pandas frames -> a dataset folder, which the job reads like any other.

Columns are written as people have them in frames: categoricals as their values, datetimes of a
column that the config reads as a moment as Unix seconds, lists and arrays as lists.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.prepare.column_types import is_date
from pipelines.prepare.columns import unix_seconds
from pipelines.prepare.dataset_files import (
    CANDIDATES,
    INTERACTIONS,
    QUERIES,
    check_names,
    check_types,
    first_needed,
    needed_columns,
)
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.errors import first_line

SIDES = {INTERACTIONS: "context", CANDIDATES: "candidate", QUERIES: "query"}


def write_frames(folder: str | Path, config: Config, frames: Mapping[str, pd.DataFrame]) -> None:
    """Writes a dataset folder: the columns that the config reads, as Parquet.

    Args:
        folder: An empty folder.
        config: Names the columns.
        frames: By kind: interactions, and optionally candidates and queries.

    Raises:
        UserError: If there are no interactions, or a frame is missing that the config needs; and
            see `write_frame`.
    """
    for kind in (INTERACTIONS, CANDIDATES, QUERIES):
        if kind in frames:
            write_frame(Path(folder) / f"{kind}.parquet", kind, frames[kind], config)
        elif kind == INTERACTIONS:
            raise UserError(f"no `{kind}`: candidates and queries are given beside them")
        elif needed := first_needed(config, kind):
            column, where = needed
            raise UserError(
                f"no `{kind}`, but {where} needs their column `{column}`: give the frame, or take "
                "it out of the config"
            )


def write_frame(
    path: Path, kind: str, frame: pd.DataFrame, config: Config, *, as_of_now: bool = False
) -> None:
    """Writes the columns of a frame that the config reads, as Parquet.

    Args:
        path: The file.
        kind: INTERACTIONS, CANDIDATES or QUERIES.
        frame: Its index is not read.
        config: Names the columns.
        as_of_now: See `needed_columns`.

    Raises:
        UserError: If a column is missing, or holds what the job cannot read.
    """
    names = [str(name) for name in frame.columns]
    check_names(f"`{kind}`", kind, names, config, as_of_now=as_of_now)
    moments = _moments(config, kind)
    columns = {}
    for name in needed_columns(config, kind, as_of_now=as_of_now):
        columns[name] = _array(kind, name, frame.iloc[:, names.index(name)])
    types = {name: array.type for name, array in columns.items()}
    check_types(f"`{kind}`", kind, types, config, as_of_now=as_of_now)
    for name, dtype in types.items():
        if name in moments and is_date(dtype):
            columns[name] = unix_seconds(columns[name])
    pq.write_table(pa.table(columns), path)


def _moments(config: Config, kind: str) -> set[str | None]:
    """The columns that the config reads as a moment."""
    side = SIDES[kind]
    roles = {INTERACTIONS: config.columns.timestamp, CANDIDATES: config.columns.available_from}
    features = getattr(config.features, side).items()
    named = {config.column_of(side, name) for name, one in features if one.kind == "timestamp"}
    return {*named, roles.get(kind)}


def _array(kind: str, name: str, values: pd.Series) -> pa.Array:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        # pyarrow would read `.values`, of which pandas 3.1 warns.
        values = values.dt.tz_convert(None)
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"`{kind}`: column `{name}` cannot be read ({first_line(error)}): give all its values "
            "one type"
        ) from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    return array

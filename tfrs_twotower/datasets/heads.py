"""The first rows of the files of a dataset folder, as they stand."""

import gzip
import itertools
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.errors import first_line

FILE_NAME = re.compile(r"\.(csv|jsonl)(\.gz)?$|\.parquet$")


@dataclass(frozen=True)
class Head:
    """The first rows of the files of one kind.

    `rows`: text columns as they stand in a CSV file, typed ones from the other formats; a missing
    value is NaN, None or "". `num_unreadable`: lines that are no record. `is_whole`: whether the
    files have no further rows.
    """

    file_names: tuple[str, ...]
    rows: pd.DataFrame
    num_unreadable: int
    is_whole: bool


def read_head(folder: Path, kind: str, max_rows: int) -> Head | None:
    """Reads the first rows of `<kind>*.csv`, `.jsonl` (or `.gz` of these) or `.parquet`.

    Args:
        folder: The dataset folder.
        kind: interactions, candidates or queries.
        max_rows: How many rows to read, over all files in the order of their names.

    Returns:
        The rows, or None where there is no such file.

    Raises:
        UserError: If a file cannot be read.
    """
    paths = [path for path in sorted(folder.glob(f"{kind}*")) if FILE_NAME.search(path.name)]
    if not paths:
        return None
    tables: list[pd.DataFrame] = []
    num_read = num_unreadable = 0
    for path in paths:
        if num_read > max_rows:
            break
        table, unreadable = _read(path, max_rows + 1 - num_read)
        tables.append(table)
        num_unreadable += unreadable
        num_read += len(table) + unreadable
    return Head(
        file_names=tuple(path.name for path in paths),
        rows=pd.concat(tables, ignore_index=True).head(max_rows),
        num_unreadable=num_unreadable,
        is_whole=num_read <= max_rows,
    )


def _read(path: Path, max_rows: int) -> tuple[pd.DataFrame, int]:
    try:
        if path.suffix == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(batch_size=max_rows)
            empty = pq.read_schema(path).empty_table()
            table = pa.Table.from_batches(list(itertools.islice(batches, 1)), empty.schema)
            rows, unreadable = table.to_pandas(types_mapper=_nullable), 0
        elif ".csv" in path.suffixes:
            rows, unreadable = _read_csv(path, max_rows)
        else:
            rows, unreadable = _read_json_lines(path, max_rows)
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    return rows.rename(columns=str), unreadable


def _nullable(dtype: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    """Integers stay integers beside missing ones."""
    return pd.Int64Dtype() if pa.types.is_integer(dtype) else None


def _read_csv(path: Path, max_rows: int) -> tuple[pd.DataFrame, int]:
    unreadable: list[list[str]] = []
    try:
        # Only the Python parser takes a function for bad lines.
        table = pd.read_csv(
            path,
            nrows=max_rows,
            dtype=str,
            keep_default_na=False,
            on_bad_lines=unreadable.append,
            engine="python",
            encoding="utf-8-sig",
            encoding_errors="replace",
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(), 0
    # A line that is too short has NaN at its end, where an empty field has "".
    is_cut = table.iloc[:, -1].isna()
    return table[~is_cut], len(unreadable) + int(is_cut.sum())


def _read_json_lines(path: Path, max_rows: int) -> tuple[pd.DataFrame, int]:
    opened = gzip.open if path.suffix == ".gz" else open
    records: list[dict[str, Any]] = []
    unreadable = 0
    with opened(path, "rt", encoding="utf-8-sig", errors="replace") as lines:
        for line in lines:
            if len(records) + unreadable == max_rows:
                break
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                records.append(record)
            elif line.strip():
                unreadable += 1
    return pd.DataFrame.from_records(records), unreadable

"""Files of queries -> Arrow tables, completed with what the models folder knows of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines.io import filesystem
from pipelines.io.tables import column
from pipelines.score.retrieval_model import Contract, arrow_type
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.models_layout import EXCLUDE_IDS
from tfrs_twotower.schema.requests import check_names

ROWS_A_FILE = 1 << 15
NO_IDS = pa.scalar([], pa.list_(pa.string()))


class Exclusion(NamedTuple):
    """What to leave out beside the known positives and the `exclude_ids` of a query."""

    history: str | None  # The feature that holds candidates.
    ids: Sequence[str]  # For all queries.


def complete(
    table: pa.Table,
    known: pa.Table,
    key: str,
    contract: Contract,
    exclusion: Exclusion | None = None,
) -> pa.Table:
    """Adds to queries what the models folder knows of them.

    Args:
        table: Queries; a value that is there is kept, null and an absent column are filled in.
        known: What is known of these queries, each at most once, in any order.
        key: The column of ids.
        contract: Which features there are.
        exclusion: What to add to `exclude_ids`, with the known positives; None: nothing.

    Returns:
        The same rows in the same order.
    """
    known_ids = column(known, key)
    places = pc.index_in(column(table, key).cast(known_ids.type), known_ids)
    for name in known.column_names:
        if name == key or name not in contract.features:
            continue
        filler = column(known, name).take(places).cast(arrow_type(contract.features[name]))
        if name in table.column_names:
            given = pc.coalesce(column(table, name), filler)
            table = table.set_column(table.column_names.index(name), name, given)
        else:
            table = table.append_column(name, filler)
    if exclusion is None:
        return table
    everywhere = pa.scalar(list(exclusion.ids), pa.list_(pa.string()))
    excluded = pa.repeat(everywhere, table.num_rows)
    for lists in (
        _lists(table, EXCLUDE_IDS),
        _lists(known, EXCLUDE_IDS).take(places),
        _lists(table, exclusion.history),
    ):
        excluded = _concat_lists(excluded, pc.fill_null(lists, NO_IDS))
    kept = [name for name in table.column_names if name != EXCLUDE_IDS]
    return table.select(kept).append_column(EXCLUDE_IDS, excluded)


def _lists(table: pa.Table, name: str | None) -> pa.ListArray:
    """A column of lists; one that is not there holds none."""
    if name is not None and name in table.column_names:
        return column(table, name)
    return pa.nulls(table.num_rows, NO_IDS.type)


def _concat_lists(first: pa.ListArray, second: pa.ListArray) -> pa.ListArray:
    both = pa.concat_arrays([pc.list_flatten(first), pc.list_flatten(second)])
    rows = pa.concat_arrays([pc.list_parent_indices(first), pc.list_parent_indices(second)])
    order = pc.array_sort_indices(rows)
    lengths = pc.add(pc.list_value_length(first), pc.list_value_length(second))
    offsets = pa.concat_arrays(
        [pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())]
    )
    return pa.ListArray.from_arrays(offsets, both.take(order))


def read_queries(path: str, contract: Contract, key: str) -> Iterator[pa.Table]:
    """Reads a file of queries, at most `ROWS_A_FILE` rows at a time.

    Args:
        path: On any Beam filesystem.
        contract: Decides the types of the columns.
        key: The column of ids; always text.

    Raises:
        UserError: If the file cannot be read, lacks the ids, or holds another type.
    """
    types = {
        name: arrow_type(spec) for name, spec in {**contract.features, **contract.rules}.items()
    }
    types[key] = pa.string()
    try:
        with filesystem.open_raw(path) as file:
            if path.endswith(".parquet"):
                tables = (
                    pa.Table.from_batches([batch])
                    for batch in pq.ParquetFile(file).iter_batches(ROWS_A_FILE)
                )
                for table in tables:
                    yield _checked(table, types, contract, key, path)
                return
            if path.endswith(".jsonl"):
                schema = pa.schema(list(types.items()))
                options = pa.json.ParseOptions(explicit_schema=schema)
                table = pa.json.read_json(file, parse_options=options)
                given = [name for name in table.column_names if _is_given(table, name)]
                table = table.select([*dict.fromkeys([key, *given])])
            else:
                scalars = {name: kind for name, kind in types.items() if not pa.types.is_list(kind)}
                options = pa.csv.ConvertOptions(column_types=scalars, strings_can_be_null=True)
                table = pa.csv.read_csv(file, convert_options=options)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read the queries {path}: {first_line(error)}") from error
    table = _checked(table, types, contract, key, path)
    for start in range(0, table.num_rows, ROWS_A_FILE):
        yield table.slice(start, ROWS_A_FILE)


def _is_given(table: pa.Table, name: str) -> bool:
    return table.column(name).null_count < table.num_rows


def _checked(
    table: pa.Table, types: Mapping[str, pa.DataType], contract: Contract, key: str, path: str
) -> pa.Table:
    check_names(table.column_names, [key, *contract.features, *contract.rules], path)
    if key not in table.column_names:
        raise UserError(f"{path} has no column `{key}`, the id of a query")
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = table.column(name).cast(types[name])
        except pa.ArrowException as error:
            found = table.schema.field(name).type
            raise UserError(
                f"{path}: column `{name}` must be {types[name]}, got {found}"
            ) from error
    if columns[key].null_count:
        raise UserError(f"{path}: `{key}` is missing in {columns[key].null_count:,} rows")
    return pa.table(columns)

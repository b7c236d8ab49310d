"""A few named queries, looked at: what they were recommended beside what they asked with."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.json
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipelines.io import filesystem
from pipelines.io.tables import column
from pipelines.score.known_queries import Stored, find_known
from pipelines.score.queries import complete, read_queries
from pipelines.score.retrieval_model import CANDIDATE_IDS, QUERY_ID, Contract
from tfrs_twotower.schema import UserError

TITLE = "title"
NUM_SHOWN = 10


def find_queries(
    files: Sequence[str], stored: Stored, contract: Contract, query_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What a few queries ask, completed with what is known of them.

    Args:
        files: Of queries.
        stored: What is known of queries.
        contract: What the model takes.
        query_ids: Which queries.

    Returns:
        By id the values by name; where an id is asked several times, the last.

    Raises:
        UserError: If one is not among the queries.
    """
    found: dict[str, dict[str, Any]] = {}
    key, wanted_ids = stored.key, pa.array(query_ids, pa.string())
    known = find_known(stored, wanted_ids)
    for path in files:
        for table in read_queries(path, contract, key):
            wanted = pc.is_in(column(table, key), wanted_ids)
            asked = complete(table.filter(wanted), known, key, contract)
            found.update((row[key], row) for row in asked.to_pylist())
    for query_id in query_ids:
        if query_id not in found:
            raise UserError(f"--show {query_id}: not among the queries of {', '.join(files)}")
    return {query_id: found[query_id] for query_id in query_ids}


def show_queries(
    candidates: str,
    parts: Sequence[str],
    file_format: str,
    key: str,
    queries: Mapping[str, Mapping[str, Any]],
) -> None:
    """Prints a table a query: recommended titles and, newest first, each list that it asks with.

    Args:
        candidates: What the models folder knows of candidates.
        parts: Files that `pipelines.recommend` wrote.
        file_format: Of it.
        key: What an id of a query is called.
        queries: By id, see `find_queries`.
    """
    titles = _titles(candidates)
    answers = _answers(parts, file_format, list(queries))
    for query_id, values in queries.items():
        had = {name: value for name, value in values.items() if _is_texts(value)}
        table = Table("recommended", *had, title=f"{key} {query_id}", title_justify="left")
        shown = [answers[query_id], *(value[::-1] for value in had.values())]
        for row in zip_longest(*(value[:NUM_SHOWN] for value in shown), fillvalue=""):
            table.add_row(*(titles.get(value, value) for value in row))
        Console(markup=False, emoji=False).print(table)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _titles(folder: str) -> dict[str, str]:
    with filesystem.local_copy(folder) as local:
        candidates = ds.dataset(local)
        if TITLE not in candidates.schema.names:
            return {}
        table = candidates.to_table(columns=["candidate_id", TITLE]).drop_null()
    return dict(zip(*(values.to_pylist() for values in table.columns), strict=True))


def _answers(
    parts: Sequence[str], file_format: str, query_ids: Sequence[str]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in parts:
        with filesystem.open_raw(path) as file:
            read = pq.read_table if file_format == "parquet" else pa.json.read_json
            table = read(file)
        table = table.filter(pc.is_in(table.column(QUERY_ID), pa.array(query_ids, pa.string())))
        ids = (column(table, name).to_pylist() for name in (QUERY_ID, CANDIDATE_IDS))
        found.update(zip(*ids, strict=True))
    return found

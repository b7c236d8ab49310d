"""A concept test: a few named queries, what they were recommended beside what they had."""

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

from pipelines import filesystem
from pipelines.answers import CANDIDATE_IDS, QUERY_ID
from pipelines.filesystem import join
from pipelines.tables import column
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models import CANDIDATES, QUERIES, QUERY_KEY

TITLE = "title"
NUM_SHOWN = 10


def show_users(
    models: str, output: str, manifest: Mapping[str, Any], query_ids: Sequence[str]
) -> None:
    """Prints a table a query: recommended titles and, newest first, each list feature it has.

    Args:
        models: The models folder.
        output: What `pipelines.recommend` wrote.
        manifest: Its manifest.
        query_ids: Which queries.

    Raises:
        UserError: If one is not among the answers.
    """
    version = str(manifest["version"])
    titles = _titles(join(models, CANDIDATES, version))
    stored = ds.dataset(join(models, QUERIES, version))
    key = stored.schema.metadata[QUERY_KEY].decode()
    lists = [field.name for field in stored.schema if pa.types.is_list(field.type)]
    answers = _answers(output, manifest["format"], query_ids)
    for query_id in query_ids:
        if query_id not in answers:
            raise UserError(f"--show {query_id}: not among the queries")
        known = stored.to_table(filter=pc.field(key) == query_id).to_pylist()
        had = {name: known[0][name] or [] for name in lists} if known else {}
        table = Table("recommended", *had, title=f"{key} {query_id}", title_justify="left")
        shown = [answers[query_id], *(values[::-1] for values in had.values())]
        for row in zip_longest(*(values[:NUM_SHOWN] for values in shown), fillvalue=""):
            table.add_row(*(titles.get(value, value) for value in row))
        Console().print(table)


def _titles(folder: str) -> dict[str, str]:
    candidates = ds.dataset(folder)
    if TITLE not in candidates.schema.names:
        return {}
    table = candidates.to_table(columns=["candidate_id", TITLE]).drop_null()
    return dict(zip(*(values.to_pylist() for values in table.columns), strict=True))


def _answers(output: str, file_format: str, query_ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, _ in filesystem.match(join(output, f"part-*.{file_format}")):
        with filesystem.open_raw(path) as file:
            read = pq.read_table if file_format == "parquet" else pa.json.read_json
            table = read(file)
        table = table.filter(pc.is_in(table.column(QUERY_ID), pa.array(query_ids, pa.string())))
        ids = (column(table, name).to_pylist() for name in (QUERY_ID, CANDIDATE_IDS))
        found.update(zip(*ids, strict=True))
    return found

"""Candidate embeddings as Vertex AI Vector Search imports them, to be searched there.

    candidates.json   a line a candidate: `id`, `embedding`, `restricts`, `numeric_restricts`

What the folder holds is imported, so it has no manifest and no other file. The format:
https://cloud.google.com/vertex-ai/docs/vector-search/setup/format-structure and, of the restricts,
https://cloud.google.com/vertex-ai/docs/vector-search/filtering
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrs_twotower.data.remote import only_file, url_of
from tfrs_twotower.publishing.embedding_store import read_searchable
from tfrs_twotower.publishing.indexes import EMBEDDING, Floats, matrix
from tfrs_twotower.publishing.models_folder import latest_version, read_config
from tfrs_twotower.retrieval.attributes import filter_values
from tfrs_twotower.retrieval.ranges import range_numbers
from tfrs_twotower.schema.prepared import CANDIDATE_ID
from tfrs_twotower.schema.rules import Rules

FILE = "candidates.json"
# Stands for a time that is missing, where a candidate without one is not left out. A restrict has
# no infinity; integers and both floats hold this one.
FOREVER_S = 2**53
ROWS_A_BATCH = 10_000


@dataclass(frozen=True)
class VertexBatch:
    """What was written.

    Attributes:
        file: The batch.
        model_version: Of the models folder.
        num_candidates: How many candidates.
        embedding_dim: How many numbers an embedding has.
    """

    file: str
    model_version: int
    num_candidates: int
    embedding_dim: int


def write_to_vertex(models: str | Path, folder: str | Path) -> VertexBatch:
    """Writes the candidates of the newest version as a batch of Vertex AI Vector Search.

    An earlier batch in the folder is replaced as a whole.

    Args:
        models: The models folder.
        folder: The root of the batch, local or on `gs://`.

    Returns:
        What was written.

    Raises:
        UserError: If there are no models, what they hold is damaged, they score by a layer, or the
            folder cannot be written.
        UsageError: If the folder holds other files.
    """
    models = Path(models)
    number = latest_version(models)
    candidates = read_searchable(models, number, "Vertex AI Vector Search")
    rules = read_config(models, number).resolved_rules
    with only_file(folder, FILE) as path, path.open("w", encoding="utf-8") as file:
        for line in lines(candidates, rules):
            file.write(line + "\n")
    dim = candidates.schema.field(EMBEDDING).type.list_size
    place = f"{url_of(folder) or folder}".rstrip("/")
    return VertexBatch(f"{place}/{FILE}", number, len(candidates), dim)


def lines(candidates: pa.Table, rules: Rules) -> Iterator[str]:
    """A line of JSON a candidate.

    Args:
        candidates: With id, embedding and the columns that the rules name.
        rules: What they filter by becomes `restricts`; ranges and availability become
            `numeric_restricts`.

    Raises:
        UserError: If a column does not suit its role.
    """
    missing: dict[str, int | None] = dict.fromkeys(rules.ranges)
    if rules.available_from is not None:
        missing.setdefault(rules.available_from, -FOREVER_S)
    if rules.available_until is not None:
        missing.setdefault(rules.available_until, FOREVER_S)
    for start in range(0, len(candidates), ROWS_A_BATCH):
        batch = candidates.slice(start, ROWS_A_BATCH).combine_chunks()
        restricts: list[list[Any]] = [[] for _ in range(len(batch))]
        for name in rules.filters:
            _add_tokens(restricts, name, batch.column(name).combine_chunks())
        numeric: list[list[Any]] = [[] for _ in range(len(batch))]
        for name, value in missing.items():
            _add_numbers(numeric, name, batch.column(name).combine_chunks(), value)
        ids = batch.column(CANDIDATE_ID).to_pylist()
        for candidate_id, vector, *further in zip(
            ids, _texts(matrix(batch, EMBEDDING)), restricts, numeric, strict=True
        ):
            fields = [f'"id": {json.dumps(candidate_id)}', f'"embedding": [{vector}]']
            for name, of_row in zip(("restricts", "numeric_restricts"), further, strict=True):
                if of_row:
                    fields.append(f'"{name}": {json.dumps(of_row)}')
            yield f"{{{', '.join(fields)}}}"


def _texts(vectors: Floats) -> list[str]:
    """The numbers as the shortest text that gives the same single: JSON's writer knows doubles."""
    texts = pc.cast(pa.array(vectors.ravel()), pa.string())
    ends = np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1]
    joined: list[str] = pc.binary_join(pa.ListArray.from_arrays(ends, texts), ", ").to_pylist()
    return joined


def _add_tokens(restricts: list[list[Any]], name: str, column: pa.Array) -> None:
    allowed: dict[int, list[str]] = {}
    for row, value in zip(*filter_values(name, column), strict=True):
        allowed.setdefault(int(row), []).append(str(value))
    for row, tokens in allowed.items():
        restricts[row].append({"namespace": name, "allow": tokens})


def _add_numbers(
    restricts: list[list[Any]], name: str, column: pa.Array, missing: int | None
) -> None:
    numbers = range_numbers(name, column)
    # A namespace has one type, whichever numbers a candidate has.
    as_type: type[int] | type[float] = float
    if pa.types.is_integer(column.type):
        field, as_type = "value_int", int
    else:
        field = "value_float" if numbers.dtype == np.float32 else "value_double"
    for row, number in enumerate(numbers.tolist()):
        value = missing if math.isnan(number) else number
        if value is not None:
            restricts[row].append({"namespace": name, field: as_type(value)})

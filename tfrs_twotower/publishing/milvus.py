"""Candidate embeddings in Milvus, to be searched there beyond what one machine holds.

    candidates_<model version>_<write>   `candidate_id`, `embedding`, title and attributes as fields
    candidates                           an alias of the current one; readers ask for it

The alias moves last: readers see the earlier version or this one, as a whole. Towers give vectors
of length 1, so the inner product by which Milvus orders its answers is our score.
"""

import math
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tfrs_twotower.publishing.embedding_store import read_searchable
from tfrs_twotower.publishing.indexes import EMBEDDING, matrix
from tfrs_twotower.publishing.models_folder import latest_version
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.prepared import CANDIDATE_ID

ALIAS = "candidates"
ENTITIES_A_BATCH = 1000
_OF_A_WRITE = re.compile(rf"{ALIAS}_\d+_[0-9a-f]{{32}}")
_LONGEST_TEXT = 65_535  # Bytes; of Milvus.


@dataclass(frozen=True)
class MilvusVersion:
    """What was written.

    Attributes:
        collection: Of the version; readers ask for the alias `candidates`.
        model_version: Of the models folder.
        num_candidates: How many candidates.
        embedding_dim: How many numbers an embedding has.
    """

    collection: str
    model_version: int
    num_candidates: int
    embedding_dim: int


def write_to_milvus(models: str | Path, address: str) -> MilvusVersion:
    """Writes the candidates of the newest version, and makes the alias `candidates` theirs.

    The collections of earlier writes are removed at the end.

    Args:
        models: The models folder.
        address: What `pymilvus.MilvusClient` takes: `http://HOST:19530`, with user and password
            where there are any, or the path of a file whose name ends with `.db`, for Milvus Lite.

    Returns:
        What was written.

    Raises:
        UserError: If there are no models, what they hold is damaged, they score by a layer, Milvus
            refuses, or pymilvus is not installed.
    """
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise UserError("Milvus needs pymilvus: pip install -e '.[milvus]' in the clone") from error
    models = Path(models)
    number = latest_version(models)
    candidates = read_searchable(models, number, "Milvus")
    dim = candidates.schema.field(EMBEDDING).type.list_size
    version = MilvusVersion(f"{ALIAS}_{number}_{uuid.uuid4().hex}", number, len(candidates), dim)
    try:
        client = MilvusClient(address)
        try:
            _replace(client, version, candidates)
        finally:
            client.close()
    # Without the address: there may be a password in it.
    except MilvusException as error:
        raise UserError(f"Milvus refuses: {first_line(error)}") from error
    return version


def _replace(client: Any, version: MilvusVersion, candidates: pa.Table) -> None:
    # Listed before the alias moves: a write that begins later is not among them.
    doomed = filter(_OF_A_WRITE.fullmatch, client.list_collections())
    try:
        _create(client, version)
        for batch in _entities(candidates):
            client.insert(version.collection, batch)
        client.flush(version.collection)
        client.load_collection(version.collection)
        if client.has_collection(ALIAS):  # True of an alias as well.
            client.alter_alias(version.collection, ALIAS)
        else:
            client.create_alias(version.collection, ALIAS)
    except BaseException:
        client.drop_collection(version.collection)
        raise
    for name in doomed:
        client.drop_collection(name)


def _create(client: Any, version: MilvusVersion) -> None:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field(CANDIDATE_ID, DataType.VARCHAR, is_primary=True, max_length=_LONGEST_TEXT)
    schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=version.embedding_dim)
    index = client.prepare_index_params()
    index.add_index(EMBEDDING, index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(version.collection, schema=schema, index_params=index)


def _entities(candidates: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Batches of entities; what a candidate lacks is no field of it."""
    embeddings = matrix(candidates, EMBEDDING)
    others = candidates.drop_columns([EMBEDDING])
    for start in range(0, len(others), ENTITIES_A_BATCH):
        yield [
            {EMBEDDING: embeddings[place], **{k: v for k, v in row.items() if not _is_missing(v)}}
            for place, row in enumerate(others.slice(start, ENTITIES_A_BATCH).to_pylist(), start)
        ]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))

"""User embeddings computed ahead, for a cache in front of the models.

Without context features the vector is the query embedding itself, which any index can be searched
by. With context features it is the user's half of it (see `halves`), which the signatures `join` of
`query_tower` and `recommend_joined` of the retrieval models join with the context of a request.
"""

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.halves import USER, USER_EMBEDDING
from tfrs_twotower.publishing.indexes import Floats, vectors
from tfrs_twotower.publishing.models_folder import (
    PART,
    QUERY_EMBEDDING,
    latest_version,
    query_key,
    read_config,
    read_queries,
)
from tfrs_twotower.publishing.saved_model_reader import embed_queries
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json
from tfrs_twotower.schema.models_layout import QUERY_TOWER
from tfrs_twotower.schema.prepared import QUERY_ID
from tfrs_twotower.schema.version import __version__


def write_user_embeddings(
    models: str | Path, output: str | Path, *, overwrite: bool = False
) -> int:
    """Embeds every query that the newest version holds, as of now.

    Args:
        models: The models folder.
        output: The folder to write: `part-00000.parquet` with `query_id` and `user_embedding` (or
            `query_embedding`, of a model without context), and `manifest.json`.
        overwrite: Whether a finished folder may be replaced.

    Returns:
        How many were embedded.

    Raises:
        UserError: If there are no models, or the user's half cannot be computed apart.
    """
    models = Path(models)
    version = latest_version(models)
    config = read_config(models, version)
    ids, column, embeddings = embed_stored_queries(models, version, config)
    with output_folder(output, overwrite=overwrite) as folder:
        stored = pa.table({QUERY_ID: ids, column: vectors(embeddings)})
        pq.write_table(stored, folder / PART)
        write_json(
            folder / MANIFEST,
            {
                "kind": "user_embeddings",
                "code_version": __version__,
                "schema_fingerprint": config.fingerprint(),
                "model_version": version,
                "num_queries": len(ids),
            },
        )
    return len(ids)


class EmbeddedQueries(NamedTuple):
    """The vectors of all queries of a version."""

    ids: pa.ChunkedArray  # string
    name: str  # `query_embedding`, or `user_embedding`, the user's half of it.
    embeddings: Floats  # [num_queries, dim]


def embed_stored_queries(models: Path, version: int, config: Config) -> EmbeddedQueries:
    """Embeds every query that a version holds.

    Args:
        models: The models folder.
        version: Which version.
        config: That it was exported with.

    Raises:
        UserError: If the user's half cannot be computed apart.
    """
    name, column = _signature(config)
    signatures = tf.saved_model.load(str(models / QUERY_TOWER / str(version))).signatures
    if name not in signatures:
        raise UserError(
            f"{QUERY_TOWER} version {version} of {models} has no signature `{name}`, as an earlier "
            "tfrs_twotower or a model of your own leaves it out: make a version that has it with "
            "`twotower export`"
        )
    tower = signatures[name]
    table = read_queries(models, version)
    embeddings = embed_queries(lambda inputs: tower(**inputs)[column], config.features.query, table)
    return EmbeddedQueries(table.column(query_key(models, version)), column, embeddings)


def _signature(config: Config) -> tuple[str, str]:
    """What of `query_tower` to call, and its output."""
    if config.context_mode is None:
        return "serving_default", QUERY_EMBEDDING
    if config.context_mode != "user_tower":
        return USER, USER_EMBEDDING
    raise UserError(
        f"`towers.context_mode: {config.context_mode}` reads user and context through the same "
        "layers, so no user embedding can be computed ahead: train with `context_mode: trilinear` "
        "or `scoring_layer`, or without context features"
    )

"""Embeddings in MongoDB: a version is written beside the current one, then takes its place.

See `schema.mongodb` for the collections. Readers see the earlier version or this one, as a whole:
one document names the current version, and is replaced last.
"""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tfrs_twotower.publishing.embedding_store import read_embeddings
from tfrs_twotower.publishing.indexes import EMBEDDING, Floats, matrix
from tfrs_twotower.publishing.models_folder import (
    latest_version,
    query_key,
    read_config,
    read_queries,
)
from tfrs_twotower.publishing.user_embeddings import embed_stored_queries
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.mongodb import (
    CANDIDATES,
    CURRENT,
    QUERIES,
    VERSIONS,
    CurrentVersion,
    Store,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID

if TYPE_CHECKING:
    from pymongo.collection import Collection

DOCUMENTS_A_BATCH = 1000
_OF_A_WRITE = re.compile(rf"({CANDIDATES}|{QUERIES})_[0-9a-f]{{24}}")


def write_to_mongodb(models: str | Path, address: str) -> CurrentVersion:
    """Writes the embeddings of the newest version, and makes it the current one.

    All candidates, and all known queries with what the models folder knows of them: profile,
    history, known positives. The queries have embeddings where those need no context. The
    collections of earlier versions, and of writes that were killed, are removed at the end.

    Args:
        models: The models folder.
        address: See `Store`.

    Returns:
        What was written.

    Raises:
        UserError: If there are no models, what they hold is damaged, the database refuses, or
            another write came first.
        UsageError: If the address is none.
    """
    from bson import ObjectId

    store = Store(address)
    try:
        models = Path(models)
        number = latest_version(models)
        config = read_config(models, number)
        candidates, queries = read_embeddings(models, number), read_queries(models, number)
        embeddings = matrix(candidates, EMBEDDING)
        has_query_embeddings = config.context_mode is None
        version = CurrentVersion(
            write=ObjectId(),
            model_version=number,
            schema_fingerprint=config.fingerprint(),
            embedding_dim=embeddings.shape[1],
            num_candidates=len(candidates),
            num_queries=len(queries),
            has_query_embeddings=has_query_embeddings,
            query_key=query_key(models, number),
            **_filled_in(config),
        )
        vectors = (
            embed_stored_queries(models, number, config).embeddings
            if has_query_embeddings
            else None
        )
        _replace(store, version, candidates.drop_columns([EMBEDDING]), embeddings, queries, vectors)
        return version
    finally:
        store.close()


def _filled_in(config: Config) -> dict[str, Any]:
    """What a reader needs to know in order to complete a query."""
    history = config.history
    return {
        "features": [*config.features.query],
        "history": history and history.name,
        "history_length": history.feature.length if history else 0,
        "exclude_known": config.rules.exclude_known,
    }


def _replace(
    store: Store,
    version: CurrentVersion,
    candidates: pa.Table,
    embeddings: Floats,
    queries: pa.Table,
    query_embeddings: Floats | None,
) -> None:
    from pymongo.errors import DuplicateKeyError

    earlier = store.find_current()
    written = store.candidates(version), store.queries(version)
    with store.errors_told():
        # Listed before the current version is replaced. A write that begins later is not among
        # them; one that began earlier finds the current version replaced, and gives up.
        doomed = filter(_OF_A_WRITE.fullmatch, store.database.list_collection_names())
        try:
            _insert(written[0], candidates, CANDIDATE_ID, embeddings)
            _insert(written[1], queries, version.query_key, query_embeddings)
            document = {"_id": CURRENT, **dataclasses.asdict(version)}
            versions = store.database[VERSIONS]
            try:
                if earlier is None:
                    versions.insert_one(document)
                    is_current = True
                else:
                    last = {"_id": CURRENT, "write": earlier.write}
                    is_current = versions.replace_one(last, document).matched_count == 1
            except DuplicateKeyError:
                is_current = False
            if not is_current:
                raise UserError(
                    f"another command has written to {store.name} meanwhile: its version is the "
                    "current one; try again"
                )
        except BaseException:
            for collection in written:
                collection.drop()
            raise
        for name in doomed:
            store.database.drop_collection(name)


def _insert(
    collection: "Collection[dict[str, Any]]", table: pa.Table, key: str, embeddings: Floats | None
) -> None:
    """Writes a document a row; `_id` has an index by itself."""
    from bson.binary import Binary, BinaryVectorDtype

    for start in range(0, len(table), DOCUMENTS_A_BATCH):
        documents = []
        for place, row in enumerate(table.slice(start, DOCUMENTS_A_BATCH).to_pylist(), start):
            document = {"_id": row.pop(key)}
            if embeddings is not None:
                vector = embeddings[place]
                document[EMBEDDING] = Binary.from_vector(vector, BinaryVectorDtype.FLOAT32)
            known = {name: value for name, value in row.items() if value is not None}
            documents.append({**document, "features": known})
        collection.insert_many(documents, ordered=False)

"""`similarity` of a version: the stored vectors as a model of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tfrs_twotower.publishing.models_folder import PART
from tfrs_twotower.publishing.saved_model_reader import Floats, Tower, embed_queries
from tfrs_twotower.publishing.saved_model_writer import save
from tfrs_twotower.retrieval.retriever import CandidateIds
from tfrs_twotower.retrieval.similarity import Similarity, StoredQueries
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.models_layout import QUERIES, QUERY_KEY, SIMILARITY


def write_similarity(
    staging: Path,
    tower: Tower,
    candidate_ids: CandidateIds,
    embeddings: Floats,
    config: Config,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the model.

    It holds the queries' vectors where these need no context of the request.

    Args:
        staging: Has the folder `queries` of the version.
        tower: Raw query features -> query embedding.
        candidate_ids: Of the corpus.
        embeddings: See `indexes.Corpus`.
        config: Decides whether queries can be embedded ahead.
        facts: For the manifest.

    Returns:
        The manifest.
    """
    queries = None
    if config.context_mode is None:
        table = pq.read_table(staging / QUERIES / PART)
        ids = table.column(table.schema.metadata[QUERY_KEY].decode()).to_pylist()
        if ids:
            queries = StoredQueries(ids, embed_queries(tower, config.features.query, table))
    model = Similarity(candidate_ids, embeddings, queries)
    return save(model, model.signatures(), staging / SIMILARITY, model_name=SIMILARITY, facts=facts)

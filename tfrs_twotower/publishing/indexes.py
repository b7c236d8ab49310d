"""Candidates and their embeddings -> `retrieval`, `retrieval_exact` and `candidates` of a version.

What an export and a refresh have in common.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.index.candidate_index import CandidateIndex
from tfrs_twotower.index.memory import check_build
from tfrs_twotower.index.scann import ScannIndex, has_tree
from tfrs_twotower.index.scoring_layer import exact_index
from tfrs_twotower.index.tuning import measured_recall, tune
from tfrs_twotower.models.context_modes import ScoringLayer
from tfrs_twotower.publishing.models_folder import HELD_OUT_QUERIES, PART, QUERY_EMBEDDING
from tfrs_twotower.publishing.saved_models import save
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import QueryTower, Retriever
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.models import CANDIDATES, EXTRA_ASSETS, RETRIEVAL, RETRIEVAL_EXACT
from tfrs_twotower.schema.prepared import CANDIDATE_ID

Floats = npt.NDArray[np.float32]
EMBEDDING = "embedding"


def write_indexes(
    staging: Path,
    query_tower: QueryTower,
    candidates: pa.Table,
    embeddings: Floats,
    held_out: Floats,
    config: Config,
    facts: Mapping[str, Any],
    *,
    scorer: ScoringLayer | None = None,
    joined_tower: QueryTower | None = None,
) -> dict[str, dict[str, Any]]:
    """Writes the three folders of a version that depend on the corpus.

    Args:
        staging: Where.
        query_tower: Of both retrieval models.
        candidates: One row a candidate, by candidate id (UTF-8 bytes): id, title, attributes and
            raw features.
        embeddings: `[num_candidates, embedding_dim]` in the same order.
        held_out: `[num_queries, embedding_dim]` query embeddings to measure recall on.
        config: Index, rules, export.
        facts: For the manifests; see `saved_models.save`.
        scorer: What scores pairs in place of the dot product.
        joined_tower: See `Retriever`.

    Returns:
        Manifests by model; without `retrieval` where the config wants none.

    Raises:
        UserError: If there is too little memory, or the target recall cannot be met.
    """
    forecast = check_build(len(embeddings), embeddings.shape[1], config.index)
    ids = candidates.column(CANDIDATE_ID).to_pylist()

    def write(name: str, index: CandidateIndex, found: Mapping[str, Any]) -> dict[str, Any]:
        attributes = CandidateAttributes(config.resolved_rules, candidates)
        retriever = Retriever(
            query_tower,
            index,
            ids,
            default_k=config.export.default_k,
            max_k=config.export.max_k,
            attributes=attributes,
            joined_tower=joined_tower,
        )
        return save(
            retriever,
            retriever.signatures(),
            staging / name,
            model_name=name,
            facts={
                **facts,
                **found,
                "corpus_size": len(ids),
                "index": index.parameters,
                "build_memory_forecast_bytes": forecast,
            },
            searcher_bytes=index.searcher_bytes,
        )

    # One index after the other, so that only one is in memory beside the embeddings.
    manifests = {RETRIEVAL_EXACT: write(RETRIEVAL_EXACT, exact_index(embeddings, scorer), {})}
    if config.export.retrieval:
        manifests[RETRIEVAL] = write(RETRIEVAL, *_scann(embeddings, held_out, config))
        queries = pa.table({QUERY_EMBEDDING: vectors(held_out)})
        pq.write_table(queries, staging / RETRIEVAL / EXTRA_ASSETS / HELD_OUT_QUERIES)
    (staging / CANDIDATES).mkdir()
    stored = candidates.add_column(1, EMBEDDING, vectors(embeddings))
    pq.write_table(stored, staging / CANDIDATES / PART)
    return manifests


def vectors(matrix: Floats) -> pa.FixedSizeListArray:
    """Rows of a matrix as Arrow lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def matrix(table: pa.Table, name: str) -> Floats:
    """The matrix of a column that `vectors` made."""
    column = table.column(name).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)


def _scann(
    embeddings: Floats, held_out: Floats, config: Config
) -> tuple[ScannIndex, dict[str, Any]]:
    """The ScaNN index, and what is to be said of its recall."""
    wants_tuning = config.index.target_recall and has_tree(config.index, len(embeddings))
    if wants_tuning and not len(held_out):
        raise UserError(
            "a target recall needs held-out queries: validate on a part of the data (`split`)"
        )
    if wants_tuning:
        index, tuning = tune(embeddings, held_out, config.index)
        found: dict[str, Any] = {"tuning": tuning.as_dict()}
    else:
        index, found = ScannIndex(embeddings, config.index), {}
    if len(held_out):
        found["recall"] = measured_recall(index, held_out, config.index.at)._asdict()
    return index, found

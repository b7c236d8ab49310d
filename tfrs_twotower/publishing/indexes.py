"""Candidates and their embeddings -> the retrieval models and `candidates` of a version.

What an export and a refresh have in common.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.ivf import IvfIndex
from tfrs_twotower.index.memory import (
    check_free,
    exact_bytes,
    ivf_bytes,
    readable,
    scann_bytes,
)
from tfrs_twotower.index.parameters import IndexParameters, IvfParameters, has_tree
from tfrs_twotower.index.promised_recall import promise_recall, split_queries
from tfrs_twotower.index.recall import measure_recall
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.scoring_layer import exact_index
from tfrs_twotower.index.tuning import tune, tune_ivf
from tfrs_twotower.models.scorers import DOT_PRODUCT, Scorer
from tfrs_twotower.publishing.earlier_indexes import EarlierVersion
from tfrs_twotower.publishing.linked_files import link_same
from tfrs_twotower.publishing.models_folder import HELD_OUT_QUERIES, PART, QUERY_EMBEDDING
from tfrs_twotower.publishing.progress import Begin, untold
from tfrs_twotower.publishing.saved_model_writer import VARIABLES, save
from tfrs_twotower.publishing.similarity_export import write_similarity
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import CandidateIds, QueryTower, Retriever
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.index import Index as IndexConfig
from tfrs_twotower.schema.models_layout import (
    CANDIDATES,
    EXTRA_ASSETS,
    RETRIEVAL,
    RETRIEVAL_EXACT,
    RETRIEVAL_STOCK,
    SIMILARITY,
    preferred_model,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID

Floats = npt.NDArray[np.float32]
EMBEDDING = "embedding"
MEMORY_FORECAST = "build_memory_forecast_bytes"


@dataclass(frozen=True)
class QuerySide:
    """What answers a query.

    Attributes:
        tower: Raw query features -> query embedding.
        joined_tower: See `Retriever`; None where user embeddings cannot be computed ahead.
        scorer: What scores pairs of embeddings.
    """

    tower: QueryTower
    joined_tower: QueryTower | None = None
    scorer: Scorer = DOT_PRODUCT


@dataclass(frozen=True)
class Corpus:
    """What is searched.

    Attributes:
        candidates: One row a candidate, by candidate id (UTF-8 bytes): id, title, attributes and
            raw features.
        embeddings: `[num_candidates, embedding_dim]` in the same order.
    """

    candidates: pa.Table
    embeddings: Floats


def write_indexes(
    staging: Path,
    query_side: QuerySide,
    corpus: Corpus,
    held_out: Floats,
    config: Config,
    facts: Mapping[str, Any],
    begin: Begin = untold,
    earlier: EarlierVersion | None = None,
) -> dict[str, dict[str, Any]]:
    """Writes the folders of a version that depend on the corpus.

    Args:
        staging: Where; for `similarity` it has the folder `queries`.
        query_side: Of both retrieval models.
        corpus: Of both.
        held_out: `[num_queries, embedding_dim]` query embeddings to tune and measure recall on.
        config: Index, rules, export.
        facts: For the manifests; see `saved_model_writer.save`.
        begin: Is told of each model.
        earlier: The version whose indexes are corrected, where they can be; None: they are built.

    Returns:
        Manifests by model; without `retrieval` and `similarity` where the config wants none, and
        without `retrieval_stock` where it wants none or the corpus is searched by brute force.

    Raises:
        UserError: If there is too little memory, or the target recall cannot be met.
    """
    candidates, embeddings = corpus.candidates, corpus.embeddings
    num_candidates, embedding_dim = embeddings.shape

    is_searchable = query_side.scorer is DOT_PRODUCT and has_tree(config.index, num_candidates)
    forecasts = build_forecasts(num_candidates, embedding_dim, config, is_searchable)
    if earlier is None:
        largest = max(forecasts, key=forecasts.__getitem__)
        check_memory(largest, forecasts, num_candidates, embedding_dim, config)
        forecast = forecasts[RETRIEVAL_EXACT]
    else:
        forecast = earlier.check_memory()
    facts = {**facts, "corpus_size": len(candidates), MEMORY_FORECAST: forecast}

    # Of all models; the text of a million ids takes seconds to hash.
    ids = CandidateIds(candidates.column(CANDIDATE_ID).to_pylist())
    attributes = CandidateAttributes(config.resolved_rules, candidates)

    def write(name: str, index: CandidateIndex, found: Mapping[str, Any]) -> dict[str, Any]:
        retriever = Retriever(
            query_side.tower,
            index,
            ids,
            default_k=config.export.default_k,
            max_k=config.export.max_k,
            attributes=attributes,
            joined_tower=query_side.joined_tower,
        )
        return save(
            retriever,
            retriever.signatures(),
            staging / name,
            model_name=name,
            facts={**facts, **found, "index": index.description},
            searcher_bytes=index.searcher_bytes,
        )

    def found(
        name: str, build: Callable[..., tuple[CandidateIndex, dict[str, Any]]]
    ) -> tuple[CandidateIndex, dict[str, Any]]:
        is_tuned = is_searchable and earlier is None
        begin(f"{name}: tuning its index" if is_tuned else name)
        known = earlier and earlier.corrected(name, embeddings, held_out, config.index)
        if known:
            return known
        check_memory(name, forecasts, num_candidates, embedding_dim, config)
        index, facts = build(embeddings, held_out, config.index)
        return index, {**facts, MEMORY_FORECAST: forecasts[name]}

    begin(RETRIEVAL_EXACT)
    # One index after the other, so that only one is in memory beside the embeddings.
    manifests = {
        RETRIEVAL_EXACT: write(RETRIEVAL_EXACT, exact_index(embeddings, query_side.scorer), {})
    }
    if RETRIEVAL_STOCK in forecasts:
        manifests[RETRIEVAL_STOCK] = write(RETRIEVAL_STOCK, *found(RETRIEVAL_STOCK, ivf_index))
    if RETRIEVAL in forecasts:
        manifests[RETRIEVAL] = write(RETRIEVAL, *found(RETRIEVAL, scann_index))
    if config.export.similarity:
        begin(SIMILARITY)
        manifests[SIMILARITY] = write_similarity(
            staging, query_side.tower, ids, embeddings, config, facts
        )
    # The embeddings of the corpus are in each model, and what a tree is made of in two versions.
    known = [] if earlier is None else earlier.files_of_variables()
    for name in manifests:
        variables = staging / name / VARIABLES
        link_same(known, variables)
        known += variables.iterdir()
    if (preferred := preferred_model(manifests)) != RETRIEVAL_EXACT:
        queries = pa.table({QUERY_EMBEDDING: vectors(held_out)})
        pq.write_table(queries, staging / preferred / EXTRA_ASSETS / HELD_OUT_QUERIES)
    (staging / CANDIDATES).mkdir()
    stored = candidates.add_column(1, EMBEDDING, vectors(embeddings))
    pq.write_table(stored, staging / CANDIDATES / PART)
    return manifests


def build_forecasts(
    num_candidates: int, embedding_dim: int, config: Config, is_searchable: bool
) -> dict[str, int]:
    """The retrieval models that are built, with the peak memory that each index takes, in bytes.

    Args:
        num_candidates: Of the corpus.
        embedding_dim: Width of an embedding.
        config: Which models are exported, and their indexes.
        is_searchable: Whether an approximate index of the corpus is built.
    """
    exact = exact_bytes(num_candidates, embedding_dim)
    shape = num_candidates, embedding_dim, config.index
    forecasts = {RETRIEVAL_EXACT: exact}
    if config.export.retrieval_stock and is_searchable:
        forecasts[RETRIEVAL_STOCK] = ivf_bytes(*shape)
    if config.export.retrieval:
        forecasts[RETRIEVAL] = scann_bytes(*shape) if is_searchable else exact
    return forecasts


def check_memory(
    name: str,
    forecasts: Mapping[str, int],
    num_candidates: int,
    embedding_dim: int,
    config: Config,
) -> None:
    """Checks that this process may take the memory of an index.

    Args:
        name: The model whose index it is.
        forecasts: Of `build_forecasts`.
        num_candidates: For the message.
        embedding_dim: For the message.
        config: For the cure.

    Raises:
        UserError: If there is less.
    """
    what = (
        f"building the index of `{name}`, {num_candidates:,} candidates of {embedding_dim} "
        f"dimensions, takes about {readable(forecasts[name])}"
    )
    cures = ["lower `towers.embedding_dim`", "export on a larger machine"]
    others = max((forecasts[other] for other in forecasts if other != name), default=0)
    if name == RETRIEVAL and others < forecasts[name]:
        cures.insert(0, f"`export.retrieval: false` takes {readable(others)}")
    if name == RETRIEVAL_STOCK and config.index.leaf_dtype == "float32":
        cures.insert(0, "set `index.leaf_dtype: bfloat16`")
    check_free(forecasts[name], what, ", or ".join(cures))


def scann_index(
    embeddings: Floats, held_out: Floats, config: IndexConfig
) -> tuple[ScannIndex, dict[str, Any]]:
    """The ScaNN index that a config describes, and what the manifest holds of its recall.

    Args:
        embeddings: `[num_candidates, embedding_dim]`.
        held_out: `[num_queries, embedding_dim]`: with a target recall one half is tuned on and
            the other confirms the recall; without one nothing is tuned, and recall is measured on
            all of them.
        config: Brute force or a tree, its parameters, the target recall.

    Returns:
        The index, and `recall` and `tuning` as far as there are any.

    Raises:
        UserError: If the target recall cannot be met, or not be confirmed.
    """
    if config.target_recall is None or not has_tree(config, len(embeddings)):
        index = ScannIndex(embeddings, IndexParameters.from_config(config, len(embeddings)))
        if not len(held_out):
            return index, {}
        return index, {"recall": measure_recall(index, held_out, config.at).as_dict()}
    tuning_queries, other_queries = split_queries(held_out, config.target_recall)
    index, tuning = tune(
        embeddings,
        tuning_queries,
        target_recall=config.target_recall,
        at=config.at,
        num_leaves=config.num_leaves,
        dimensions_per_block=config.dimensions_per_block,
        leaves_to_search=config.leaves_to_search,
        reorder=config.reorder,
        anisotropic_threshold=config.anisotropic_threshold,
    )
    recall = promise_recall(index, tuning, other_queries)
    return index, {"recall": recall.as_dict(), "tuning": tuning.as_dict()}


def ivf_index(
    embeddings: Floats, held_out: Floats, config: IndexConfig
) -> tuple[IvfIndex, dict[str, Any]]:
    """Inverted lists with the target recall of a config; as `scann_index` otherwise.

    Args:
        embeddings: See `scann_index`.
        held_out: See `scann_index`.
        config: The target recall, the k that it is for, and the type of the leaves.

    Raises:
        UserError: If the target recall cannot be met, or not be confirmed.
    """
    if config.target_recall is None:
        parameters = IvfParameters.for_corpus(
            len(embeddings), at=config.at, leaf_dtype=config.leaf_dtype
        )
        index = IvfIndex(embeddings, parameters)
        if not len(held_out):
            return index, {}
        return index, {"recall": measure_recall(index, held_out, config.at).as_dict()}
    tuning_queries, other_queries = split_queries(held_out, config.target_recall)
    index, tuning = tune_ivf(
        embeddings,
        tuning_queries,
        target_recall=config.target_recall,
        at=config.at,
        leaf_dtype=config.leaf_dtype,
    )
    recall = promise_recall(index, tuning, other_queries)
    return index, {"recall": recall.as_dict(), "tuning": tuning.as_dict()}


def vectors(matrix: Floats) -> pa.FixedSizeListArray:
    """Rows of a matrix as Arrow lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def matrix(table: pa.Table, name: str) -> Floats:
    """The matrix of a column that `vectors` made."""
    column = table.column(name).combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)

"""A corpus like that of trained towers, and retrieval models of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _harness  # noqa: F401  (sets the log level and the path)
import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index import CandidateIndex
from tfrs_twotower.publishing.saved_model_writer import save
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import Retriever, ServedTower, Signature
from tfrs_twotower.schema.features import Vector

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

EMBEDDING_DIM, K, NUM_QUERIES = 64, 100, 1000
SCORES_AT_ONCE = 50_000_000
SPREAD, ZIPF_EXPONENT = 0.8, 0.7
FEATURE = "embedding"


def world(size: int) -> tuple[Floats, Floats, Floats]:
    """Candidates, queries to tune on, queries to measure on.

    Candidates lie in clusters of Zipf-distributed size; queries lie between two clusters.
    """
    draw = np.random.default_rng(0)
    num_clusters = int(4 * size**0.5)
    centres = unit(draw.standard_normal((num_clusters, EMBEDDING_DIM), dtype=np.float32))
    share = np.arange(1, num_clusters + 1) ** -ZIPF_EXPONENT
    share /= share.sum()

    def noise(num_rows: int) -> Floats:
        rows = draw.standard_normal((num_rows, EMBEDDING_DIM), dtype=np.float32)
        return rows * np.float32(SPREAD / EMBEDDING_DIM**0.5)

    def near(num_rows: int) -> Floats:
        return centres[draw.choice(num_clusters, num_rows, p=share)]

    candidates = unit(near(size) + noise(size))
    tuning, queries = (
        unit(near(NUM_QUERIES) + 0.5 * near(NUM_QUERIES) + noise(NUM_QUERIES)) for _ in range(2)
    )
    return candidates, tuning, queries


def unit(rows: Floats) -> Floats:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def exact_rows(candidates: Floats, queries: Floats) -> Ints:
    """The rows of the exact 100 best, in any order."""
    at_once = max(SCORES_AT_ONCE // len(candidates), 1)
    best = [
        np.argpartition(-(queries[first : first + at_once] @ candidates.T), K, axis=1)[:, :K].copy()
        for first in range(0, len(queries), at_once)
    ]
    return np.concatenate(best).astype(np.int64)


def recall(found: Ints, truth: Ints) -> float:
    shares = [np.isin(mine, right).mean() for mine, right in zip(found, truth, strict=True)]
    return float(np.mean(shares))


class Passing:
    """A query tower that hands the embedding through: the index alone is measured."""

    variables = ()

    def __call__(self, encoded: Any, *, training: bool) -> Any:
        """The embedding, as the query gave it."""
        return encoded[FEATURE]


def export(
    index: CandidateIndex,
    folder: Path,
    *,
    attributes: CandidateAttributes | None = None,
    further: Mapping[str, Signature] | None = None,
) -> dict[str, Any]:
    """Writes an index as `twotower export` does, ids the rows as text.

    Args:
        index: Of the corpus.
        folder: Version folder to write.
        attributes: What requests may filter by.
        further: Signatures beside those of a retriever.

    Returns:
        The manifest.
    """
    encoder = Encoder({FEATURE: Vector(dimension=EMBEDDING_DIM)}, "none")
    ids = [f"{row:09}" for row in range(index.num_candidates)]
    tower = ServedTower(encoder, Passing())
    retriever = Retriever(tower, index, ids, default_k=K, max_k=K, attributes=attributes)
    return save(
        retriever,
        {**retriever.signatures(), **(further or {})},
        folder,
        model_name="retrieval",
        facts={},
        searcher_bytes=index.searcher_bytes,
    )

"""The recall of an index: which share of the exact answer it finds, and how sure that is."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.base import CHUNK_ELEMENTS, CandidateIndex

Floats = npt.NDArray[np.float32]
Shares = npt.NDArray[np.float64]

CONFIDENCE = 0.95
Z = 1.6449  # Of the normal distribution, one-sided.


class Recall(NamedTuple):
    """The share of the exact answer that an index finds, over held-out queries.

    Attributes:
        mean: Over the queries.
        lower_bound: What the recall is at least, with 95 % confidence.
        at: How many of the best are wanted.
        num_queries: On how many queries both were measured.
        num_tuning_queries: On how many others the parameters were chosen; 0: not on any.
    """

    mean: float
    lower_bound: float
    at: int
    num_queries: int
    num_tuning_queries: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As a manifest holds it, where the lower bound is `at_least`."""
        return {"at_least" if k == "lower_bound" else k: v for k, v in self._asdict().items()}


def measure_recall(
    index: CandidateIndex, queries: Floats, at: int, exact: Floats | None = None
) -> Recall:
    """The recall of an index, on queries that have no part in its parameters.

    Args:
        index: As it will be served.
        queries: `[num_queries, embedding_dim]` held-out query embeddings, at least one.
        at: How many of the best are wanted.
        exact: `exact_scores` of the same queries, where another index of the corpus has given them.
    """
    at = min(at, index.num_candidates)
    specs = [tf.TensorSpec([None, index.embedding_dim], tf.float32), tf.TensorSpec([], tf.int32)]
    _, scores = tf.function(index.search, specs, autograph=False)(queries, at)
    if exact is None:
        exact = exact_scores(index, queries, at)
    found = found_share(scores.numpy(), exact)
    return Recall(float(found.mean()), recall_lower_bound(found), at, len(queries))


def exact_scores(index: CandidateIndex, queries: Floats, at: int) -> Floats:
    """`[num_queries]` the score of the last candidate of each exact answer."""
    at = min(at, index.num_candidates)
    size = max(CHUNK_ELEMENTS // len(queries), at)
    # Candidates in blocks, all queries at once: the embeddings are read once.
    blocks = [
        _best_of_block(queries, index.embeddings[first : first + size], at, first)
        for first in range(0, index.num_candidates, size)
    ]
    scores, rows = (tf.concat(parts, axis=1) for parts in zip(*blocks, strict=True))
    best = tf.gather(rows, tf.math.top_k(scores, at).indices, batch_dims=1)
    # The scores that a search gives, to the last bit.
    return np.asarray(tf.reduce_min(index.score(queries, best), axis=1), np.float32)


def _best_of_block(
    queries: Floats, block: tf.Tensor, at: int, first: int
) -> tuple[tf.Tensor, tf.Tensor]:
    scores = tf.matmul(queries, block, transpose_b=True)
    best = tf.math.top_k(scores, min(at, block.shape[0]), sorted=False)
    return best.values, first + best.indices


def found_share(scores: Floats, worst_scores: Floats) -> Shares:
    """Which share of each answer belongs to the exact one; one as good as its last belongs, too.

    Args:
        scores: `[num_queries, at]` of the candidates found.
        worst_scores: See `exact_scores`.
    """
    return (scores >= worst_scores[:, np.newaxis]).mean(axis=1)


def recall_lower_bound(shares: Shares) -> float:
    """The lower bound of the mean of shares between 0 and 1, with 95 % confidence.

    The normal bound, with one more, imaginary query for which nothing is found: a handful of
    queries that all go well prove little. It holds for shares that have no part in the choice of
    what is measured.

    Args:
        shares: `[num_queries]`, at least one.
    """
    seen = np.append(shares, 0.0)
    return float(max(seen.mean() - Z * seen.std(ddof=1) / math.sqrt(len(seen)), 0.0))


def least_queries(target_recall: float) -> int:
    """On how many queries `recall_lower_bound` reaches a recall, if everything is found for all.

    Args:
        target_recall: Between 0 and 1.
    """
    # Of n ones and the imaginary zero, the mean is n / (n + 1) and its standard error
    # 1 / (n + 1): the bound is 1 - (1 + Z) / (n + 1).
    return math.ceil((1.0 + Z) / (1.0 - target_recall)) - 1

"""Ranks of given candidates over the whole corpus, and the best candidates of each query.

The corpus is scored in chunks of queries, exactly: matrix product, exclusions, count.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.keras import tf

Ints = npt.NDArray[np.int64]

# Elements of the largest intermediate array: 64 MB of float32.
CHUNK_ELEMENTS = 16_000_000


class Pairs(NamedTuple):
    """(query, candidate) pairs, ordered by query."""

    queries: Ints  # [num_pairs] positions 0 .. num_queries - 1, ascending.
    candidate_rows: Ints  # [num_pairs]

    def between(self, start: int, end: int) -> "Pairs":
        """The pairs of the queries start .. end - 1, counted from start."""
        first, last = np.searchsorted(self.queries, [start, end])
        return Pairs(self.queries[first:last] - start, self.candidate_rows[first:last])


class Ranking(NamedTuple):
    """What `rank` finds."""

    ranks: Ints  # [num_positives] 1-based rank of each positive among the eligible candidates.
    top_rows: Ints  # [num_queries, k] candidate rows, best first; -1 where fewer are eligible.


def rank(
    query_embeddings: npt.NDArray[np.float32],
    candidate_embeddings: npt.NDArray[np.float32],
    positives: Pairs,
    excluded: Pairs,
    *,
    k: int,
) -> Ranking:
    """Ranks candidates by dot product; equal scores by candidate row, which is the order of ids.

    Args:
        query_embeddings: `[num_queries, embedding_dim]`.
        candidate_embeddings: `[corpus_size, embedding_dim]`.
        positives: Whose ranks are wanted; none may be excluded.
        excluded: Candidates that are not eligible for a query.
        k: Length of the lists of best candidates, cut to the corpus size.

    Returns:
        Ranks in the order of `positives`, and the best candidates of each query.
    """
    corpus_size = len(candidate_embeddings)
    k = min(k, corpus_size)
    candidates = tf.constant(candidate_embeddings)
    chunk = max(CHUNK_ELEMENTS // corpus_size, 1)
    ranks, tops = [np.zeros(0, np.int64)], [np.zeros([0, k], np.int64)]
    for start in range(0, len(query_embeddings), chunk):
        end = min(start + chunk, len(query_embeddings))
        scores = _scores(
            tf.constant(query_embeddings[start:end]),
            candidates,
            tf.constant(np.stack(excluded.between(start, end), axis=1)),
        )
        tops.append(_top(scores, k).numpy())
        wanted = np.stack(positives.between(start, end), axis=1)
        for first in range(0, len(wanted), chunk):
            ranks.append(_ranks(scores, tf.constant(wanted[first : first + chunk])).numpy())
    return Ranking(np.concatenate(ranks), np.concatenate(tops))


@tf.function(reduce_retracing=True)
def _scores(queries: tf.Tensor, candidates: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
    scores = tf.matmul(queries, candidates, transpose_b=True)
    hidden = tf.fill(tf.shape(excluded)[:1], tf.constant(-float("inf")))
    return tf.tensor_scatter_nd_update(scores, excluded, hidden)


@tf.function(reduce_retracing=True)
def _top(scores: tf.Tensor, k: int) -> tf.Tensor:
    values, rows = tf.math.top_k(scores, k)  # Equal scores: the lower row first.
    return tf.where(tf.math.is_inf(values), tf.constant(-1, tf.int64), tf.cast(rows, tf.int64))


@tf.function(reduce_retracing=True)
def _ranks(scores: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """1 + the candidates that score higher, or the same with a lower row."""
    own = tf.gather_nd(scores, wanted)[:, tf.newaxis]
    others = tf.gather(scores, wanted[:, 0])
    lower_row = tf.range(tf.shape(scores, tf.int64)[1]) < wanted[:, 1:]
    ahead = (others > own) | ((others == own) & lower_row)
    return 1 + tf.math.count_nonzero(ahead, axis=1)

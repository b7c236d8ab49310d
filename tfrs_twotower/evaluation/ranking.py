"""Ranks of given candidates over the whole corpus, and the best candidates of each query.

The corpus is scored in chunks of queries, exactly: matrix product, exclusions, count. A rank is
one more than the candidates that are ahead: counted for the few positives of a query, and found in
its sorted scores for many.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.keras import tf

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
ScoreChunk = Callable[[int, int], Floats]
"""Queries start .. end - 1 -> `[end - start, corpus_size]` float32 scores, an array to write to."""

# Scores of a chunk: few enough for the caches to hold them between the passes over them, but always
# of enough queries to make the matrix product one.
CHUNK_ELEMENTS = 1_000_000
MIN_CHUNK_QUERIES = 64
# Sorting the scores of a query costs about as much as so many passes over them.
SORTED_FROM = 16


class Pairs(NamedTuple):
    """(query, candidate) pairs, ordered by query."""

    queries: Ints  # [num_pairs] positions 0 .. num_queries - 1, ascending.
    candidate_rows: Ints  # [num_pairs]

    def between(self, start: int, end: int) -> "Pairs":
        """The pairs of the queries start .. end - 1, counted from start."""
        first, last = np.searchsorted(self.queries, [start, end])
        return Pairs(self.queries[first:last] - start, self.candidate_rows[first:last])

    def of(self, kept: Ints) -> "Pairs":
        """The pairs of some queries, given ascending, counted by their place among them."""
        is_kept = np.isin(self.queries, kept)
        return Pairs(np.searchsorted(kept, self.queries[is_kept]), self.candidate_rows[is_kept])


class Ranking(NamedTuple):
    """What `rank` finds."""

    ranks: Ints  # [num_positives] 1-based rank of each positive among the eligible candidates.
    top_rows: Ints  # [num_queries, k] candidate rows, best first; -1 where fewer are eligible.


def rank(
    query_embeddings: Floats,
    candidate_embeddings: Floats,
    positives: Pairs,
    excluded: Pairs,
    *,
    k: int,
    listed: Pairs | None = None,
    score: Callable[[Floats, Floats], Floats] | None = None,
) -> Ranking:
    """Ranks candidates by their embeddings; see `rank_scores`.

    Args:
        query_embeddings: `[num_queries, embedding_dim]`, or as `score` takes them.
        candidate_embeddings: `[corpus_size, embedding_dim]`.
        positives: Whose ranks are wanted; none may be excluded.
        excluded: Candidates that are not eligible for a query.
        k: Length of the lists of best candidates, cut to the corpus size; 0: none wanted.
        listed: The only eligible candidates; None: the corpus.
        score: Embeddings of queries and of candidates -> `[num_queries, corpus_size]`; None: their
            dot products.
    """
    candidates = tf.constant(candidate_embeddings)

    def score_chunk(start: int, end: int) -> Floats:
        queries = query_embeddings[start:end]
        if score is not None:
            return score(queries, candidates)
        return _products(tf.constant(queries), candidates).numpy()

    return rank_scores(
        score_chunk,
        len(query_embeddings),
        len(candidate_embeddings),
        positives,
        excluded,
        k=k,
        listed=listed,
    )


def rank_scores(
    score_chunk: ScoreChunk,
    num_queries: int,
    corpus_size: int,
    positives: Pairs,
    excluded: Pairs,
    *,
    k: int,
    listed: Pairs | None = None,
) -> Ranking:
    """Ranks candidates by score; equal scores by candidate row, which is the order of ids.

    Args:
        score_chunk: The scores, finite.
        num_queries: Number of queries.
        corpus_size: Number of candidates.
        positives: Whose ranks are wanted; none may be excluded, all must be listed.
        excluded: Candidates that are not eligible for a query.
        k: Length of the lists of best candidates, cut to the corpus size; 0: none wanted.
        listed: The only eligible candidates; None: the corpus.

    Returns:
        Ranks in the order of `positives`, and the best candidates of each query.
    """
    k = min(k, corpus_size)
    chunk = max(CHUNK_ELEMENTS // corpus_size, MIN_CHUNK_QUERIES)

    def rank_chunk(start: int) -> Ranking:
        end = min(start + chunk, num_queries)
        scores = _eligible(score_chunk(start, end), listed and listed.between(start, end))
        scores[excluded.between(start, end)] = -np.inf
        top_rows = _top(scores, k).numpy() if k else np.zeros([end - start, 0], np.int64)
        wanted = positives.between(start, end)
        if len(wanted.queries) == len(scores) and (np.diff(wanted.queries) == 1).all():
            return Ranking(_ranks_of_one_each(scores, wanted.candidate_rows), top_rows)
        return Ranking(_ranks(scores, wanted), top_rows)

    # Products and counts leave Python's lock, so that chunks keep every core busy.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(rank_chunk, range(0, num_queries, chunk)))
    nothing = Ranking(np.zeros(0, np.int64), np.zeros([0, k], np.int64))
    return Ranking(*map(np.concatenate, zip(nothing, *found, strict=True)))


def _eligible(scores: Floats, listed: Pairs | None) -> Floats:
    """The scores; -inf outside the list where there is one."""
    if listed is None:
        return scores
    eligible = np.full_like(scores, -np.inf)
    eligible[listed] = scores[listed]
    return eligible


def _ranks_of_one_each(scores: Floats, rows: Ints) -> Ints:
    """The rank of one candidate in each row of scores; a pass of them all costs less than many."""
    own = scores[np.arange(len(rows)), rows][:, np.newaxis]
    # Bits are counted several times faster than booleans are added.
    ranks = 1 + np.bitwise_count(np.packbits(scores > own, axis=1)).sum(1, dtype=np.int64)
    is_equal = scores == own
    if np.count_nonzero(is_equal) > len(rows):  # Each candidate equals itself.
        for tied in np.flatnonzero(is_equal.sum(1) > 1):
            ranks[tied] = _rank(scores[tied], rows[tied])
    return ranks


def _ranks(scores: Floats, positives: Pairs) -> Ints:
    """The rank of each positive, all those of a query from its one row of scores."""
    bounds = np.flatnonzero(np.diff(positives.queries, prepend=-1, append=len(scores)))
    ranks = np.empty(len(positives.queries), np.int64)
    for first, last in pairwise(bounds):
        rows = positives.candidate_rows[first:last]
        ranks[first:last] = _ranks_of_query(scores[positives.queries[first]], rows)
    return ranks


def _ranks_of_query(scores: Floats, rows: Ints) -> Ints:
    """The ranks of some candidates by the `[corpus_size]` scores of one query."""
    if len(rows) < SORTED_FROM:
        return np.array([_rank(scores, row) for row in rows])
    ascending, own = np.sort(scores), scores[rows]
    num_lower_or_equal = np.searchsorted(ascending, own, side="right")
    ranks: Ints = 1 + len(scores) - num_lower_or_equal
    for tied in np.flatnonzero(num_lower_or_equal - np.searchsorted(ascending, own) > 1):
        ranks[tied] = _rank(scores, rows[tied])
    return ranks


def _rank(scores: Floats, row: int) -> int:
    """One more than the candidates ahead: of a higher score, or of the same and a lower row."""
    own = scores[row]
    ahead = np.count_nonzero(scores[:row] >= own) + np.count_nonzero(scores[row + 1 :] > own)
    return 1 + int(ahead)


_MATRIX = tf.TensorSpec([None, None], tf.float32)


# One graph for all shapes: chunks run in several threads, and each of them would trace its own.
@tf.function(input_signature=[_MATRIX, _MATRIX])
def _products(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    return tf.matmul(queries, candidates, transpose_b=True)


@tf.function(input_signature=[_MATRIX, tf.TensorSpec([], tf.int32)])
def _top(scores: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
    values, rows = tf.math.top_k(scores, k)  # Equal scores: the lower row first.
    return tf.where(tf.math.is_inf(values), tf.constant(-1, tf.int64), tf.cast(rows, tf.int64))

"""Ranks of given candidates over the whole corpus, and the best candidates of each query.

The corpus is scored in chunks of queries, exactly: matrix product, exclusions, count. A rank is
counted, not sorted for: it is one more than the candidates that are ahead.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.keras import tf

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
ScoreChunk = Callable[[int, int], tf.Tensor]
"""Queries start .. end - 1 -> `[end - start, corpus_size]` float32 scores."""

# Scores of a chunk: 4 MB, which the caches hold between the passes over them; but always enough
# queries to make the matrix product one.
CHUNK_ELEMENTS = 1_000_000
MIN_CHUNK_QUERIES = 16


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
) -> Ranking:
    """Ranks candidates by dot product; see `rank_scores`.

    Args:
        query_embeddings: `[num_queries, embedding_dim]`.
        candidate_embeddings: `[corpus_size, embedding_dim]`.
        positives: Whose ranks are wanted; none may be excluded.
        excluded: Candidates that are not eligible for a query.
        k: Length of the lists of best candidates, cut to the corpus size; 0: none wanted.
        listed: The only eligible candidates; None: the corpus.
    """
    candidates = tf.constant(candidate_embeddings)
    return _rank(
        lambda start, end: (tf.constant(query_embeddings[start:end]), candidates),
        _rank_products,
        len(query_embeddings),
        len(candidate_embeddings),
        Question(positives, excluded, listed),
        k,
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
    return _rank(
        lambda start, end: (score_chunk(start, end),),
        _rank_chunk,
        num_queries,
        corpus_size,
        Question(positives, excluded, listed),
        k,
    )


class Question(NamedTuple):
    """What is asked of the scores."""

    positives: Pairs
    excluded: Pairs
    listed: Pairs | None


def _rank(
    inputs_of: Callable[[int, int], tuple[tf.Tensor, ...]],
    rank_chunk: Callable[..., tuple[tf.Tensor, ...]],
    num_queries: int,
    corpus_size: int,
    question: Question,
    k: int,
) -> Ranking:
    k = min(k, corpus_size)
    chunk = max(CHUNK_ELEMENTS // corpus_size, MIN_CHUNK_QUERIES)
    ranks, tops = [np.zeros(0, np.int64)], [np.zeros([0, k], np.int64)]
    for start in range(0, num_queries, chunk):
        end = min(start + chunk, num_queries)
        wanted, excluded, listed = (
            _indices(pairs, start, end) if pairs is not None else None for pairs in question
        )
        is_one_each = len(wanted) == end - start and bool((np.diff(wanted[:, 0]) == 1).all())
        found = rank_chunk(
            *inputs_of(start, end),
            *(tf.constant(wanted), tf.constant(excluded)),
            listed=None if listed is None else tf.constant(listed),
            k=k,
            block=0 if is_one_each else chunk,
        )
        ahead, is_tied, scores, top_rows = found
        ahead = ahead.numpy().astype(np.int64)
        if len(tied := np.flatnonzero(is_tied.numpy())):
            ahead[tied] += _equal_before(scores, tf.constant(wanted[tied])).numpy()
        ranks.append(1 + ahead)
        tops.append(top_rows.numpy())
    return Ranking(np.concatenate(ranks), np.concatenate(tops))


def _indices(pairs: Pairs, start: int, end: int) -> Ints:
    return np.stack(pairs.between(start, end), axis=1)


def _ranked(
    scores: tf.Tensor,
    wanted: tf.Tensor,
    excluded: tf.Tensor,
    *,
    listed: tf.Tensor | None,
    k: int,
    block: int,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """How many are ahead of each wanted candidate, whether some are equal, the scores, the best.

    Args:
        scores: `[chunk, corpus_size]`.
        wanted: `[num_wanted, 2]` positions in the scores.
        excluded: `[num_excluded, 2]`.
        listed: `[num_listed, 2]`, or None.
        k: Length of the lists.
        block: How many wanted candidates are looked at together; 0: there is one a query.
    """
    if listed is not None:
        nothing = tf.fill(tf.shape(scores), tf.constant(-float("inf")))
        scores = tf.tensor_scatter_nd_update(nothing, listed, tf.gather_nd(scores, listed))
    hidden = tf.fill(tf.shape(excluded)[:1], tf.constant(-float("inf")))
    scores = tf.tensor_scatter_nd_update(scores, excluded, hidden)
    if block:
        num_wanted = tf.shape(wanted)[0]
        higher = tf.TensorArray(tf.int32, -(-num_wanted // block), infer_shape=False)
        equal = tf.TensorArray(tf.int32, -(-num_wanted // block), infer_shape=False)
        for place in tf.range(-(-num_wanted // block)):
            part = wanted[place * block : (place + 1) * block]
            own = tf.gather_nd(scores, part)
            counts = _counts(tf.gather(scores, part[:, 0]), own)
            higher, equal = higher.write(place, counts[0]), equal.write(place, counts[1])
        counts = (higher.concat(), equal.concat())
    else:
        counts = _counts(scores, tf.gather_nd(scores, wanted))
    if k:
        values, rows = tf.math.top_k(scores, k)  # Equal scores: the lower row first.
        top = tf.where(tf.math.is_inf(values), tf.constant(-1, tf.int64), tf.cast(rows, tf.int64))
    else:
        top = tf.zeros([tf.shape(scores)[0], 0], tf.int64)
    return counts[0], counts[1] > 1, scores, top  # Everybody equals itself.


def _counts(scores: tf.Tensor, own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many of each row are higher than its own, and how many are equal."""
    own = own[:, tf.newaxis]
    higher = tf.reduce_sum(tf.cast(scores > own, tf.int32), axis=1)
    return higher, tf.reduce_sum(tf.cast(scores >= own, tf.int32), axis=1) - higher


@tf.function(reduce_retracing=True)
def _rank_products(
    queries: tf.Tensor, candidates: tf.Tensor, *question: tf.Tensor, **options: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    return _ranked(tf.matmul(queries, candidates, transpose_b=True), *question, **options)


@tf.function(reduce_retracing=True)
def _rank_chunk(
    scores: tf.Tensor, *question: tf.Tensor, **options: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    return _ranked(scores, *question, **options)


@tf.function(reduce_retracing=True)
def _equal_before(scores: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Equal scores with a lower row: they come first."""
    own = tf.gather_nd(scores, wanted)[:, tf.newaxis]
    is_lower_row = tf.range(tf.shape(scores, tf.int64)[1]) < wanted[:, 1:]
    return tf.math.count_nonzero((tf.gather(scores, wanted[:, 0]) == own) & is_lower_row, axis=1)

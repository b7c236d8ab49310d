"""Rules 2 to 5: what time, the minimum score and categories make of a pool of candidates."""

from typing import NamedTuple

import tensorflow as tf

from tfrs_twotower.index.control_flow import rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.placeholders import NO_SCORE
from tfrs_twotower.retrieval.rules.request import Request
from tfrs_twotower.retrieval.string_table import NO_ROW


class Pool(NamedTuple):
    """Candidates among which an answer is chosen; the eligible ones of a query are distinct."""

    candidate_rows: tf.Tensor  # [batch, n] int64, within the corpus.
    scores: tf.Tensor  # [batch, n] float32; where equal, the lower row comes first.
    is_eligible: tf.Tensor  # [batch, n] bool


class Ranked(NamedTuple):
    """The best of a pool by rules 2 to 5; rule 6 is yet to come."""

    candidate_rows: tf.Tensor  # [batch, width] int64
    scores: tf.Tensor  # [batch, width] float32
    count: tf.Tensor  # [batch] int32: how many of the pool are left; the rest is padding.
    # [batch] int32: how many of them no candidate outside the pool can overtake.
    num_sure: tf.Tensor
    num_eligible: tf.Tensor  # [batch] int32: how many of the pool pass rule 1.


class Ranking(tf.Module):
    """Ranks pools of candidates of a corpus."""

    def __init__(self, attributes: CandidateAttributes | None) -> None:
        """Keeps what candidates are ordered by.

        Args:
            attributes: Of the corpus; None: there are none to order by.
        """
        super().__init__()
        self._attributes = attributes
        self._timestamps_s = attributes.timestamps_s if attributes else None
        self._categories = attributes.categories if attributes else None

    def rank(
        self, request: Request, pool: Pool, width: tf.Tensor, best_outside: tf.Tensor
    ) -> Ranked:
        """Ranks a pool by rules 2 to 5.

        Args:
            request: Of `batch` queries.
            pool: Of the same.
            width: int32 scalar, how many to return.
            best_outside: `[batch]` float32, what no candidate outside the pool scores above;
                `NO_SCORE` where the pool holds all there are.

        Returns:
            The first `width`.
        """
        num_eligible = tf.math.count_nonzero(pool.is_eligible, axis=1, dtype=tf.int32)
        pool, best_outside = self._apply_time_decay(request, pool, best_outside)
        is_in = pool.is_eligible & (pool.scores >= request.min_score[:, tf.newaxis])
        pool = pool._replace(is_eligible=is_in)
        pool = self._cap_per_category(request, pool)
        rows, scores = by_score(pool, width)
        count = tf.math.count_nonzero(pool.is_eligible, axis=1, dtype=tf.int32)
        is_sure = pool.is_eligible & (pool.scores > best_outside[:, tf.newaxis])
        # Of equal scores those of the pool come first, unless time has changed them.
        is_sure = tf.where(request.half_life_s[:, tf.newaxis] > 0, is_sure, pool.is_eligible)
        num_sure = tf.math.count_nonzero(is_sure, axis=1, dtype=tf.int32)
        # No candidate outside can be eligible: what was found is all there is.
        is_over = best_outside < tf.maximum(request.min_score, NO_SCORE / 2)
        num_sure = tf.where(is_over, tf.int32.max, num_sure)
        return Ranked(rows, scores, count, num_sure, num_eligible)

    def num_eligible_at_most(self, request: Request, corpus_size: int) -> tf.Tensor:
        """How many candidates `max_per_category` lets through at most, `[batch]` int32."""
        attributes = self._attributes
        if attributes is None or self._categories is None:
            return tf.fill(tf.shape(request.k), corpus_size)
        most = request.max_per_category
        sizes = tf.minimum(attributes.category_sizes, most[:, tf.newaxis])
        limited = attributes.num_uncategorised + tf.reduce_sum(sizes, axis=1)
        return tf.where(most > 0, limited, corpus_size)

    def _apply_time_decay(
        self, request: Request, pool: Pool, best_outside: tf.Tensor
    ) -> tuple[Pool, tf.Tensor]:
        """Rule 2, of the pool and of the bound on the candidates outside it.

        None of those outside is newer than the newest candidate of the corpus.
        """
        timestamps_s = self._timestamps_s
        if timestamps_s is None or self._attributes is None:
            return pool, best_outside
        newest_s = tf.constant(self._attributes.newest_s, tf.int64)
        half_life_s, now_s = request.half_life_s, request.now_s

        def decayed(
            scores: tf.Tensor, born_s: tf.Tensor, half: tf.Tensor, now: tf.Tensor
        ) -> tf.Tensor:
            age_s = tf.cast(tf.maximum(now - born_s, 0), tf.float32)
            # Rounding may leave a cosine a little below -1.
            old = tf.maximum(1.0 + scores, 0.0) * tf.pow(2.0, -age_s / half) - 1.0
            return tf.where(half > 0, old, scores)

        def reordered() -> tuple[Pool, tf.Tensor]:
            # Scores that were different may now be equal.
            order = tf.argsort(pool.candidate_rows, axis=1, stable=True)
            rows, scores, is_eligible = (tf.gather(x, order, batch_dims=1) for x in pool)
            born_s = tf.gather(tf.convert_to_tensor(timestamps_s), rows)
            scores = decayed(scores, born_s, half_life_s[:, tf.newaxis], now_s[:, tf.newaxis])
            outside = decayed(tf.maximum(best_outside, -1.0), newest_s, half_life_s, now_s)
            outside = tf.where(best_outside > NO_SCORE / 2, outside, NO_SCORE)
            return Pool(rows, scores, is_eligible), outside

        return tf.cond(
            tf.reduce_any(half_life_s > 0),
            rarely(reordered),
            lambda: (pool, tf.identity(best_outside)),
        )

    def _cap_per_category(self, request: Request, pool: Pool) -> Pool:
        """Rule 5."""
        categories = self._categories
        if categories is None:
            return pool
        most = request.max_per_category[:, tf.newaxis]

        def capped() -> Pool:
            width = tf.shape(pool.scores)[1]
            rows, scores = by_score(pool, width)
            place = tf.range(width, dtype=tf.int64)
            num_eligible = tf.math.count_nonzero(pool.is_eligible, axis=1)[:, tf.newaxis]
            is_eligible = place < num_eligible
            category = tf.gather(tf.convert_to_tensor(categories), rows)
            has_category = is_eligible & (category != NO_ROW)
            num_before = _num_before(tf.where(has_category, category, NO_ROW))
            stays = (num_before < most) | ~has_category | (most == 0)
            return Pool(rows, scores, is_eligible & stays)

        return tf.cond(tf.reduce_any(most > 0), rarely(capped), lambda: pool)


def by_score(pool: Pool, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows and scores of the eligible candidates, best first, padded to `width` columns."""
    scores = tf.where(pool.is_eligible, pool.scores, NO_SCORE)
    missing = tf.maximum(width - tf.shape(scores)[1], 0)
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NO_SCORE)
    rows = tf.pad(pool.candidate_rows, [[0, 0], [0, missing]])
    # Of equal scores top_k takes the first, which is the lower row.
    scores, order = tf.math.top_k(scores, width)
    return tf.gather(rows, order, batch_dims=1), scores


def _num_before(labels: tf.Tensor) -> tf.Tensor:
    """How often each label, `[batch, n]` int32, occurs before its place in its row."""
    order = tf.argsort(labels, axis=1, stable=True)
    ordered = tf.gather(labels, order, batch_dims=1)
    first = tf.raw_ops.LowerBound(sorted_inputs=ordered, values=ordered)
    in_order = tf.range(tf.shape(labels)[1]) - first
    back = tf.argsort(order, axis=1)
    return tf.gather(in_order, back, batch_dims=1)

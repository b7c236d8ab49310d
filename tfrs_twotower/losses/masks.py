"""Which entries of the batch's score matrix are not negatives, found once a step.

Candidates are put in an order in which equal identities are adjacent: the copies of a candidate
are then a range of columns, and a query's masked entries are a few ranges of its row.
"""

from typing import NamedTuple

import tensorflow as tf


class Masks(NamedTuple):
    """The columns of a score matrix, and the places in it that do not count.

    A place is `query * num_candidates + column`, int64.
    """

    order: tf.Tensor | None  # [num_candidates] int32: column -> position; None: the same.
    column: tf.Tensor | None  # [num_candidates] int32: position -> column; None: the same.
    places: tuple[tf.Tensor, ...]  # each [num_masked] int64, ordered by query

    def to_columns(self, by_position: tf.Tensor) -> tf.Tensor:
        """Values by position in the batch -> values by column."""
        return by_position if self.order is None else tf.gather(by_position, self.order)

    def from_columns(self, by_column: tf.Tensor) -> tf.Tensor:
        """Values by column -> values by position in the batch."""
        return by_column if self.column is None else tf.gather(by_column, self.column)

    def applied(self, logits: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Hides the masked places of a block of queries.

        They get half of the dtype's minimum: a share of exactly 0, as -inf would give, but without
        NaN in a row whose every place is masked.

        Args:
            logits: `[num_rows, num_candidates]` of queries start .. start + num_rows - 1.
            start: First query, scalar integer.
        """
        if not self.places:
            return logits
        num_rows, num_candidates = tf.unstack(tf.shape(logits, tf.int64))
        origin = tf.cast(start, tf.int64) * num_candidates
        size = num_rows * num_candidates
        inside = []
        for places in self.places:
            first, last = tf.unstack(tf.searchsorted(places, tf.stack([origin, origin + size])))
            inside.append(places[first:last] - origin)
        indices = tf.concat(inside, 0)
        hidden = tf.fill(tf.shape(indices), tf.constant(logits.dtype.min / 2, logits.dtype))
        adjustment = tf.sparse.to_dense(
            tf.SparseTensor(indices[:, tf.newaxis], hidden, size[tf.newaxis]),
            validate_indices=False,  # Neither distinct nor ordered within a query.
        )
        return logits + tf.reshape(adjustment, tf.shape(logits))


NOTHING_MASKED = Masks(None, None, ())


def own_places(positions: tf.Tensor, num_candidates: tf.Tensor) -> Masks:
    """Masks one candidate of each query.

    Args:
        positions: `[num_queries]` int32 position in the batch.
        num_candidates: Scalar int32.
    """
    rows = tf.range(tf.size(positions, tf.int64))
    return Masks(
        None, None, (rows * tf.cast(num_candidates, tf.int64) + tf.cast(positions, tf.int64),)
    )


def known_places(
    positive_ids: tf.Tensor,
    candidate_ids: tf.Tensor,
    known_positives: tf.RaggedTensor | None = None,
) -> Masks:
    """Masks each query's own positive and known positives among the candidates.

    Args:
        positive_ids: `[num_queries]` identities of any dtype, as strings or rows.
        candidate_ids: `[num_candidates]` identities of the same dtype.
        known_positives: `[num_queries, (num_known)]` identities >= 0.

    Raises:
        ValueError: If known positives are given and the identities are no integers.
    """
    num_queries = tf.size(positive_ids)
    all_ids = tf.concat([positive_ids, candidate_ids], 0)
    distinct_ids, identities = tf.unique(all_ids)
    own, identity = identities[:num_queries], identities[num_queries:]
    order = tf.argsort(identity, stable=True)
    end = tf.cumsum(tf.math.bincount(identity, minlength=tf.size(distinct_ids)))
    start = tf.concat([[0], end[:-1]], 0)
    num_candidates = tf.size(candidate_ids, tf.int64)

    def places_of(rows: tf.Tensor, identity: tf.Tensor) -> tf.Tensor:
        origin = tf.cast(rows, tf.int64) * num_candidates
        first, last = (tf.cast(tf.gather(edge, identity), tf.int64) for edge in (start, end))
        return tf.ragged.range(origin + first, origin + last).values

    places = [places_of(tf.range(num_queries), own)]
    if known_positives is not None:
        if not candidate_ids.dtype.is_integer:
            raise ValueError(
                "`known_positives` need integer `candidate_ids` (rows of the corpus), "
                f"got {candidate_ids.dtype.name}"
            )
        known = tf.cast(known_positives.values, distinct_ids.dtype)
        num_rows = 1 + tf.maximum(tf.reduce_max(distinct_ids), tf.reduce_max(known))
        identity_from_1 = tf.scatter_nd(
            distinct_ids[:, tf.newaxis], 1 + tf.range(tf.size(distinct_ids)), num_rows[tf.newaxis]
        )
        known_identity = tf.gather(identity_from_1, known)
        found = tf.where(known_identity > 0)[:, 0]
        splits = tf.cast(known_positives.row_splits, tf.int64)
        rows = tf.searchsorted(splits, found, side="right") - 1
        places.append(places_of(rows, tf.gather(known_identity, found) - 1))
    return Masks(order, tf.math.invert_permutation(order), tuple(places))

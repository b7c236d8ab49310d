"""The negatives of a training batch, drawn without state.

Every draw is a function of a seed, so a training that is resumed draws what an uninterrupted one
draws. Rows are candidate rows; -1 means no negative.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import tf
from tfrs_twotower.losses import mixed_log_q
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.loss import Loss

NO_ROW = -1
FEW_EXPLICIT = 0.3  # Explicit negatives per positive under which implicit ones are drawn.
DEFAULT_IMPLICIT = 4

Ints = npt.NDArray[np.int64]


class PairTable(NamedTuple):
    """Distinct (query, candidate) pairs, to be looked up by query."""

    rows: tf.RaggedTensor  # [num_queries, (num_pairs)] int32, ascending
    keys: tf.Tensor  # [num_pairs] int64 query_row * corpus_size + candidate_row, ascending
    corpus_size: int

    @classmethod
    def of(cls, query_rows: Ints, candidate_rows: Ints, corpus_size: int) -> "PairTable":
        """Sorts pairs and drops copies.

        Args:
            query_rows: `[num_pairs]` rows >= 0.
            candidate_rows: `[num_pairs]` rows below `corpus_size`.
            corpus_size: Number of candidates.
        """
        keys = np.unique(query_rows.astype(np.int64) * corpus_size + candidate_rows)
        num_queries = int(keys[-1] // corpus_size) + 1 if len(keys) else 0
        lengths = np.bincount(keys // corpus_size, minlength=num_queries)
        rows = tf.RaggedTensor.from_row_lengths((keys % corpus_size).astype(np.int32), lengths)
        return cls(rows, tf.constant(keys, tf.int64), corpus_size)

    def without(self, other: "PairTable") -> "PairTable":
        """The pairs that the other table does not hold."""
        keys = np.setdiff1d(self.keys.numpy(), other.keys.numpy(), assume_unique=True)
        return PairTable.of(keys // self.corpus_size, keys % self.corpus_size, self.corpus_size)

    def __len__(self) -> int:
        """Number of pairs."""
        return int(self.keys.shape[0])

    def of_queries(self, query_rows: tf.Tensor) -> tf.RaggedTensor:
        """The candidate rows of some queries.

        Args:
            query_rows: `[batch]` integer rows; a query without pairs has none.

        Returns:
            `[batch, (num_pairs)]` int32.
        """
        splits = self.rows.row_splits
        last = tf.size(splits, tf.int64) - 1
        query_rows = tf.cast(query_rows, tf.int64)
        start = tf.gather(splits, tf.minimum(query_rows, last))
        end = tf.gather(splits, tf.minimum(query_rows + 1, last))
        places = tf.ragged.range(start, end)
        return places.with_values(tf.gather(self.rows.values, places.values))

    def holds(self, query_rows: tf.Tensor, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Whether each pair is in the table; the arguments broadcast."""
        wanted = tf.cast(query_rows, tf.int64) * self.corpus_size + tf.cast(
            candidate_rows, tf.int64
        )
        # A pair above all others is looked for behind the last key.
        closed = tf.concat([self.keys, [tf.int64.max]], 0)
        place = tf.reshape(tf.searchsorted(self.keys, tf.reshape(wanted, [-1])), tf.shape(wanted))
        return tf.gather(closed, place) == wanted


def num_implicit(loss: Loss, num_positives: int, num_explicit: int) -> int:
    """Implicit negatives of each positive: the config's number or its default."""
    if loss.implicit_negatives is not None:
        return loss.implicit_negatives
    if loss.kind == "softmax" or num_explicit >= FEW_EXPLICIT * num_positives:
        return 0
    return DEFAULT_IMPLICIT


def draw_uniform(shape: list[int | tf.Tensor], corpus_size: int, seed: tf.Tensor) -> tf.Tensor:
    """Candidate rows, each equally likely, with replacement.

    Args:
        shape: Of the result.
        corpus_size: Candidates that may be drawn.
        seed: `[2]` integers.

    Returns:
        int32 rows.
    """
    return tf.random.stateless_uniform(shape, seed, 0, corpus_size, tf.int32)


def draw_implicit(
    query_rows: tf.Tensor, n: int, known_positives: PairTable, seed: tf.Tensor
) -> tf.Tensor:
    """Draws n candidates for each query; a known positive that comes up is no negative.

    Args:
        query_rows: `[batch]` integers.
        n: Draws for each query.
        known_positives: Train positives by query.
        seed: `[2]` integers.

    Returns:
        `[batch, n]` int32 rows or -1.
    """
    rows = draw_uniform([tf.shape(query_rows)[0], n], known_positives.corpus_size, seed)
    is_known = known_positives.holds(query_rows[:, tf.newaxis], rows)
    return tf.where(is_known, NO_ROW, rows)


def draw_explicit(
    query_rows: tf.Tensor, n: int, explicit_negatives: PairTable, seed: tf.Tensor
) -> tf.Tensor:
    """Draws n of each query's explicit negatives, with replacement.

    Args:
        query_rows: `[batch]` integers.
        n: Draws for each query.
        explicit_negatives: Pairs labelled 0 in train, by query.
        seed: `[2]` integers.

    Returns:
        `[batch, n]` int32 rows; -1 for a query without explicit negatives.
    """
    negatives = explicit_negatives.of_queries(query_rows)
    length = tf.cast(negatives.row_lengths(), tf.float64)[:, tf.newaxis]
    # In float32 a draw just below 1 times the length of a long list rounds up to the length.
    draws = tf.random.stateless_uniform([tf.shape(query_rows)[0], n], seed, dtype=tf.float64)
    places = negatives.row_starts()[:, tf.newaxis] + tf.cast(draws * length, tf.int64)
    # A last query without explicit negatives begins behind the last of the values.
    padded = tf.concat([negatives.values, [NO_ROW]], 0)
    last = tf.size(padded, tf.int64) - 1
    return tf.where(length > 0, tf.gather(padded, tf.minimum(places, last)), NO_ROW)


def draw_mined(query_rows: tf.Tensor, n: int, mined: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws n of each query's mined candidates, with replacement.

    Args:
        query_rows: `[batch]` integers.
        n: Draws for each query.
        mined: `[num_queries, num_mined]` int32 rows, -1 where fewer were found.
        seed: `[2]` integers.

    Returns:
        `[batch, n]` int32 rows or -1.
    """
    shape = [tf.shape(query_rows)[0], n]
    columns = draw_uniform(shape, int(mined.shape[1]), seed)
    return tf.gather(tf.gather(mined, query_rows), columns, batch_dims=1)


class NegativeSampler:
    """Draws the negatives that a config asks for, batch by batch."""

    def __init__(
        self,
        loss: Loss,
        known_positives: PairTable,
        explicit_negatives: PairTable,
        mined: Ints | None,
        seed: int,
    ) -> None:
        """Decides what is drawn.

        Args:
            loss: Kinds and numbers of negatives.
            known_positives: Train positives by query.
            explicit_negatives: Pairs labelled 0 in train, by query.
            mined: `[num_queries, num_mined]` candidate rows or -1; None before the first mining.
            seed: Of all draws.

        Raises:
            UserError: If a loss that needs negatives gets none.
        """
        self._known_positives = known_positives
        # A pair labelled both 1 and 0 is a positive.
        self._explicit_negatives = explicit_negatives.without(known_positives)
        self._seed = seed
        self._num_uniform = loss.uniform_negatives
        self._num_explicit = loss.explicit_count if len(self._explicit_negatives) else 0
        self._num_implicit = num_implicit(loss, len(known_positives), len(explicit_negatives))
        self._num_mined = 0 if mined is None else loss.mined_negatives
        self._mined = None if mined is None else tf.constant(mined, tf.int32)
        self._in_batch = loss.in_batch_negatives
        self._masks_known_positives = loss.mask == "known_positives" and loss.ranks_batch
        if loss.ranks_batch or self._num_implicit:
            return
        if not (len(explicit_negatives) if loss.kind == "bce" else self._num_explicit):
            raise UserError(
                f"`loss.kind: {loss.kind}` has no negatives: the train split has no event labelled "
                "0 and `loss.implicit_negatives` is 0; leave it out, or set it to 4"
            )

    def known_positives(self, query_rows: tf.Tensor) -> tf.RaggedTensor | None:
        """`[batch, (num_known)]` known positives, if the loss masks them."""
        if not self._masks_known_positives:
            return None
        return self._known_positives.of_queries(query_rows)

    def uniform(self, step: tf.Tensor) -> tf.Tensor | None:
        """`[num_uniform]` rows for the whole batch, if the loss has uniform negatives."""
        if not self._num_uniform:
            return None
        return draw_uniform(
            [self._num_uniform], self._known_positives.corpus_size, self._seed_of(step, "uniform")
        )

    def own(self, query_rows: tf.Tensor, step: tf.Tensor) -> tf.Tensor | None:
        """`[batch, num_own]` rows or -1: explicit, implicit, then mined negatives."""
        drawn = []
        if self._num_explicit:
            seed = self._seed_of(step, "explicit")
            drawn.append(
                draw_explicit(query_rows, self._num_explicit, self._explicit_negatives, seed)
            )
        if self._num_implicit:
            seed = self._seed_of(step, "implicit")
            drawn.append(draw_implicit(query_rows, self._num_implicit, self._known_positives, seed))
        if self._num_mined:
            seed = self._seed_of(step, "mined")
            drawn.append(draw_mined(query_rows, self._num_mined, self._mined, seed))
        return tf.concat(drawn, axis=1) if drawn else None

    def log_q(self, in_batch_log_q: npt.NDArray[np.float32], batch_size: int) -> tf.Tensor:
        """Log probability of each candidate under one draw of the batch's negatives.

        Args:
            in_batch_log_q: `[corpus_size]` log share of each candidate of the train positives.
            batch_size: Examples in a batch of all replicas.

        Returns:
            `[corpus_size]` float32.
        """
        num_in_batch = batch_size - 1 if self._in_batch else 0
        if num_in_batch + self._num_uniform == 0:
            return tf.constant(in_batch_log_q)
        return mixed_log_q(
            tf.constant(in_batch_log_q),
            num_in_batch=num_in_batch,
            num_uniform=self._num_uniform,
            corpus_size=self._known_positives.corpus_size,
        )

    def _seed_of(self, step: tf.Tensor, name: str) -> tf.Tensor:
        return tf.stack([tf.cast(step, tf.int64), seed_of(self._seed, f"negatives/{name}")])

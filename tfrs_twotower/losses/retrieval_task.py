"""The retrieval task: a TFRS task for any two towers."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self, get_args

from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses.hardest import hardest_in_batch
from tfrs_twotower.losses.masks import NOTHING_MASKED, Masks, known_places, own_places
from tfrs_twotower.losses.pairs import (
    binary_cross_entropy,
    bpr,
    dot_products,
    margin_ranking,
    softmax_over_scores,
)
from tfrs_twotower.losses.replicas import Gathered, gather, total, whole_loss
from tfrs_twotower.losses.softmax import log_expected_count, sampled_softmax
from tfrs_twotower.schema.loss import Kind, Loss

Mask = Literal["none", "accidental_hits", "known_positives"]
PairScores = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""Queries `[batch, ...]` and each one's candidates `[batch, n, embedding_dim]` -> `[batch, n]`."""


class _Columns(NamedTuple):
    """The candidates that are negatives of every query of the batch, of all replicas."""

    embeddings: tf.Tensor  # [num_columns, embedding_dim]
    masks: Masks
    correction: tf.Tensor | None  # [num_columns], of the softmax


class _OwnNegatives(NamedTuple):
    """Scores of negatives of single queries."""

    scores: tf.Tensor  # [batch, num_own]
    is_negative: tf.Tensor  # [batch, num_own] bool
    correction: tf.Tensor | None = None  # [batch, num_own], of the softmax; None: 0

    def logits(self, temperature: tf.Tensor | float) -> tf.Tensor:
        """`[batch, num_own]` corrected logits, -inf where there is no negative."""
        logits = self.scores / temperature
        if self.correction is not None:
            logits -= self.correction
        return tf.where(self.is_negative, logits, tf.constant(-float("inf"), logits.dtype))


class _Batch(NamedTuple):
    """The arguments of a call, and the scores of the pairs that they name."""

    queries: tf.Tensor
    positives: tf.Tensor  # [batch, embedding_dim]
    candidates: tf.Tensor
    candidate_ids: tf.Tensor | None
    candidate_log_q: tf.Tensor | None
    known_positives: tf.RaggedTensor | None
    scores: tf.Tensor  # [batch], of the positives
    own: _OwnNegatives
    labels: tf.Tensor | None
    weight: tf.Tensor  # [batch]


class RetrievalTask(keras.layers.Layer, tfrs.tasks.Task):
    """The training loss of two towers, a weighted mean over the batch.

    Takes the place of `tfrs.tasks.Retrieval` in any `tfrs.Model`. Differences, all on purpose:
    the loss is a mean and not a sum, so that it does not depend on the batch size; sampling
    probabilities are given as logarithms and never clipped; ranking metrics are computed over the
    whole corpus by `tfrs_twotower.evaluation.evaluate`, not batch by batch.

    Under `tf.distribute` the candidates of all replicas are the negatives of every query and the
    loss is the mean over the global batch: n replicas with a share each train like one device
    with the whole batch. Every replica returns that mean: set `distribute_reduction_method` of a
    Keras model to "first".

    Example:
        >>> task = RetrievalTask(temperature=0.5)
        >>> loss = task(tf.eye(2), tf.eye(2))
        >>> print(round(float(loss), 4))  # log(e^2 + e^0) - 2
        0.1269
    """

    def __init__(
        self,
        kind: Kind = "softmax",
        *,
        temperature: float = 0.1,
        learn_temperature: bool = False,
        bilateral_weight: float | None = None,
        margin: float = 0.5,
        logq_correction: bool = False,
        mask: Mask = "none",
        in_batch_negatives: bool = True,
        hard_negatives: int = 0,
        pair_scores: PairScores = dot_products,
        name: str = "retrieval_task",
    ) -> None:
        """Sets the loss up; what needs a further argument of the call is off by default.

        Args:
            kind: `softmax`: cross-entropy of each positive against the candidates of the batch
                (`losses.sampled_softmax`); `margin` (`losses.margin_ranking`) and `bpr`
                (`losses.bpr`): each positive against negatives of its own; `bce`: labelled pairs
                (`losses.binary_cross_entropy`).
            temperature: Divides the scores, > 0; not of `margin`. 0.05 to 0.2 suits cosines.
            learn_temperature: Whether to start from `temperature` and train its logarithm.
            bilateral_weight: Weight of the negatives in the softmax, > 0, see
                `losses.sampled_softmax`. None: the plain softmax.
            margin: By how much a positive must beat a negative, in units of the score.
            logq_correction: Whether the softmax corrects for how often a negative is drawn. Every
                call then needs `candidate_log_q`.
            mask: Which candidates of the batch do not count as negatives of a query:
                `accidental_hits`, copies of its own positive, needs `candidate_ids`;
                `known_positives`, these and all that the call names, needs `known_positives` too.
            in_batch_negatives: Whether the softmax takes the positives of other queries for
                negatives; false: only the candidates behind the first `batch`.
            hard_negatives: Keep the n best-scoring negatives of each query alone, all where the
                batch has fewer. 0: all for the softmax, none for `margin` and `bpr`.
            pair_scores: Replaces the dot product in the losses of single pairs (`bce`, `margin`,
                `bpr`); the softmax has no other score.
            name: Of the layer.

        Raises:
            ValueError: If the kind or the mask is unknown, or an option is not one of the kind.
        """
        super().__init__(name=name)
        for option, value, known in (("kind", kind, Kind), ("mask", mask, Mask)):
            if value not in get_args(known):
                raise ValueError(f"`{option}` must be one of {get_args(known)}, got {value!r}")
        if (kind != "softmax" or hard_negatives) and (bilateral_weight or not in_batch_negatives):
            raise ValueError(
                "`bilateral_weight` and `in_batch_negatives=False` are for `kind='softmax'` "
                "without `hard_negatives`"
            )
        self._kind = kind
        self._fixed_temperature = temperature
        self._bilateral_weight = bilateral_weight
        self._margin = margin
        self._logq_correction = logq_correction and kind == "softmax"
        self._mask = mask
        self._in_batch_negatives = in_batch_negatives
        self._hard_negatives = hard_negatives
        self._pair_scores = pair_scores
        self._log_temperature = None
        if learn_temperature:
            self._log_temperature = self.add_weight(
                "log_temperature",
                shape=[],
                initializer=keras.initializers.Constant(math.log(temperature)),
            )

    @classmethod
    def from_config(cls, loss: Loss, pair_scores: PairScores = dot_products) -> Self:
        """The task of the section `loss` of a config.

        How many negatives of which sort there are is read off the arguments of a call.

        Args:
            loss: Kind and settings.
            pair_scores: See the constructor.
        """
        return cls(
            loss.kind,
            temperature=loss.temperature,
            learn_temperature=loss.learns_temperature,
            bilateral_weight=loss.bilateral_weight,
            margin=loss.margin,
            logq_correction=loss.logq_correction,
            mask=loss.mask,
            in_batch_negatives=loss.in_batch_negatives,
            hard_negatives=loss.hard_negatives,
            pair_scores=pair_scores,
        )

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by; learned as its logarithm, so that it stays positive."""
        if self._log_temperature is None:
            return self._fixed_temperature
        return tf.exp(self._log_temperature)

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        *,
        candidate_ids: tf.Tensor | None = None,
        candidate_log_q: tf.Tensor | None = None,
        known_positives: tf.RaggedTensor | None = None,
        own_negative_embeddings: tf.Tensor | None = None,
        is_own_negative: tf.Tensor | None = None,
        labels: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of a batch.

        Args:
            query_embeddings: `[batch, embedding_dim]` floats.
            candidate_embeddings: `[num_candidates, embedding_dim]`; the first `batch` belong to
                the queries one by one, further ones are negatives of every query.
            candidate_ids: `[num_candidates]` identities of any dtype.
            candidate_log_q: `[num_candidates]` log probabilities that one draw of the sampler of
                all these negatives yields the candidate; see `losses.mixed_log_q`.
            known_positives: `[batch, (num_known)]` identities >= 0 that do not count as negatives;
                needs integer `candidate_ids`.
            own_negative_embeddings: `[batch, num_own, embedding_dim]` negatives of single queries.
            is_own_negative: `[batch, num_own]` bool, false where there is none. None: all true.
            labels: `[batch]` 1 or 0, for `bce`. None: all 1; the other kinds take positives only.
            sample_weight: `[batch]` weights >= 0 of the examples. None: all 1.

        Returns:
            Scalar loss; under `tf.distribute` that of the global batch.

        Raises:
            ValueError: If an argument is missing that the options of the task need.
        """
        self._check_given(candidate_ids, candidate_log_q, known_positives)
        batch_size, dtype = tf.shape(query_embeddings)[0], query_embeddings.dtype
        positives = candidate_embeddings[:batch_size]
        batch = _Batch(
            query_embeddings,
            positives,
            candidate_embeddings,
            candidate_ids,
            candidate_log_q,
            known_positives,
            scores=self._pair_scores(query_embeddings, positives[:, tf.newaxis])[:, 0],
            own=self._own_negatives(query_embeddings, own_negative_embeddings, is_own_negative),
            labels=labels,
            weight=tf.ones([batch_size], dtype) if sample_weight is None else sample_weight,
        )
        return whole_loss(self._share(batch))

    def _check_given(self, *given: object) -> None:
        ids, log_q, known_positives = given
        needed = {"candidate_log_q": (log_q, "logq_correction=True", self._logq_correction)}
        if self._ranks_batch:
            masked = self._mask != "none"
            known = self._mask == "known_positives"
            needed["candidate_ids"] = (ids, f"mask={self._mask!r}", masked)
            needed["known_positives"] = (known_positives, f"mask={self._mask!r}", known)
        for name, (value, option, is_needed) in needed.items():
            if is_needed and value is None:
                raise ValueError(
                    f"a RetrievalTask with `{option}` needs `{name}` in every call: give it, or "
                    "make the task without that option"
                )

    @property
    def _ranks_batch(self) -> bool:
        """Whether the candidates of the batch are negatives of its queries."""
        return self._kind == "softmax" or self._hard_negatives > 0

    def _share(self, batch: _Batch) -> tf.Tensor:
        """This replica's share of the loss."""
        if self._kind == "bce":
            return self._labelled_pairs(batch)
        if self._kind == "softmax" and not self._hard_negatives:
            return self._softmax(batch)
        if self._hard_negatives:
            batch = batch._replace(own=_joined(self._hardest(batch), batch.own))
        if self._kind == "softmax":
            return self._softmax_over_own(batch)
        return self._triplets(batch)

    def _softmax(self, batch: _Batch) -> tf.Tensor:
        columns = self._columns(batch)
        return sampled_softmax(
            batch.queries,
            batch.positives,
            columns.embeddings,
            temperature=self.temperature,
            correction=columns.correction,
            masks=columns.masks,
            own_logits=batch.own.logits(self.temperature),
            bilateral_weight=self._bilateral_weight,
            sample_weight=batch.weight,
            total_weight=total(tf.reduce_sum(batch.weight)),
        )

    def _softmax_over_own(self, batch: _Batch) -> tf.Tensor:
        return softmax_over_scores(
            batch.scores / self.temperature,
            batch.own.logits(self.temperature),
            sample_weight=batch.weight,
            total_weight=total(tf.reduce_sum(batch.weight)),
        )

    def _triplets(self, batch: _Batch) -> tf.Tensor:
        is_negative = tf.cast(batch.own.is_negative, batch.weight.dtype)
        weights = batch.weight[:, tf.newaxis] * is_negative
        total_weight = total(tf.reduce_sum(weights))
        if self._kind == "bpr":
            return bpr(
                batch.scores,
                batch.own.scores,
                temperature=self.temperature,
                sample_weight=weights,
                total_weight=total_weight,
            )
        return margin_ranking(
            batch.scores,
            batch.own.scores,
            margin=self._margin,
            sample_weight=weights,
            total_weight=total_weight,
        )

    def _labelled_pairs(self, batch: _Batch) -> tf.Tensor:
        scores, own, weight = batch.scores, batch.own, batch.weight
        labels = tf.ones_like(scores) if batch.labels is None else batch.labels
        labels = tf.cast(labels, scores.dtype)
        # Own negatives belong to the positives; a pair labelled 0 has none.
        weights = (weight * labels)[:, tf.newaxis] * tf.cast(own.is_negative, weight.dtype)
        all_weights = tf.concat([weight, tf.reshape(weights, [-1])], 0)
        return binary_cross_entropy(
            tf.concat([scores, tf.reshape(own.scores, [-1])], 0),
            tf.concat([labels, tf.zeros([tf.size(own.scores)], labels.dtype)], 0),
            temperature=self.temperature,
            sample_weight=all_weights,
            total_weight=total(tf.reduce_sum(all_weights)),
        )

    def _own_negatives(
        self, queries: tf.Tensor, embeddings: tf.Tensor | None, is_negative: tf.Tensor | None
    ) -> _OwnNegatives:
        if embeddings is None:
            none = tf.zeros([tf.shape(queries)[0], 0], queries.dtype)
            return _OwnNegatives(none, tf.cast(none, tf.bool))
        scores = self._pair_scores(queries, embeddings)
        if is_negative is None:
            is_negative = tf.ones_like(scores, tf.bool)
        return _OwnNegatives(scores, is_negative)

    def _hardest(self, batch: _Batch) -> _OwnNegatives:
        """The hardest of the batch, as negatives of each query's own."""
        columns = self._columns(batch)
        found = hardest_in_batch(
            batch.queries / self.temperature,
            columns.embeddings,
            self._hard_negatives,
            columns.masks,
            columns.correction,
        )
        # Scored again, for gradients flow through few scores only; see `hardest_in_batch`.
        embeddings = tf.gather(columns.embeddings, found.positions)
        own = self._own_negatives(batch.queries, embeddings, found.is_negative)
        if columns.correction is None:
            return own
        return own._replace(correction=tf.gather(columns.correction, found.positions))

    def _columns(self, batch: _Batch) -> _Columns:
        in_batch, batch_size = self._in_batch_negatives, tf.shape(batch.queries)[0]

        def of_columns(values: tf.Tensor) -> Gathered:
            return gather(values if in_batch else values[batch_size:])

        embeddings, first = of_columns(batch.candidates)
        num_columns = tf.shape(embeddings)[0]
        masks, correction = NOTHING_MASKED, None
        if self._mask != "none":
            ids: tf.Tensor = batch.candidate_ids
            known = batch.known_positives if self._mask == "known_positives" else None
            masks = known_places(ids[:batch_size], of_columns(ids).values, known)
        elif in_batch:
            masks = own_places(first + tf.range(batch_size), num_columns)
        if self._logq_correction:
            # Of a draw that is a negative: a query's own positive in the batch is none.
            num_draws = num_columns - 1 if in_batch else num_columns
            log_q = of_columns(batch.candidate_log_q).values
            correction = log_expected_count(log_q, num_draws)
        return _Columns(embeddings, masks, correction)


def _joined(left: _OwnNegatives, right: _OwnNegatives) -> _OwnNegatives:
    """Negatives side by side; those of the right are not corrected."""
    correction = left.correction
    if correction is not None:
        correction = tf.concat([correction, tf.zeros_like(right.scores)], axis=1)
    return _OwnNegatives(
        tf.concat([left.scores, right.scores], axis=1),
        tf.concat([left.is_negative, right.is_negative], axis=1),
        correction,
    )

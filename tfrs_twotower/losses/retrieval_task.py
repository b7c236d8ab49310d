"""The retrieval task: a TFRS task for two towers, anybody's or ours."""

import math
from collections.abc import Callable
from typing import NamedTuple

from tfrs_twotower import losses
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses.masks import NOTHING_MASKED, Masks, known_places, own_places
from tfrs_twotower.losses.replicas import gather, total, whole_loss
from tfrs_twotower.schema.loss import Loss

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


class RetrievalTask(keras.layers.Layer, tfrs.tasks.Task):
    """The loss that the config describes, a mean over the batch.

    Stands where `tfrs.tasks.Retrieval` would, in any `tfrs.Model`. Differences, all on purpose:
    the loss is a mean and not a sum, so that it does not depend on the batch size; sampling
    probabilities are given as logarithms and never clipped; ranking metrics are computed over the
    whole corpus by `tfrs_twotower.evaluation.evaluate`, not batch by batch.

    Under `tf.distribute` the candidates of all replicas are the negatives of every query and the
    loss is the mean over the global batch: n replicas with a share each train like one device
    with the whole batch.

    Example:
        >>> task = RetrievalTask(Loss(temperature=0.5))
        >>> loss = task(tf.eye(2), tf.eye(2))
        >>> print(round(float(loss), 4))  # log(e^2 + e^0) - 2
        0.1269
    """

    def __init__(
        self,
        loss: Loss | None = None,
        pair_scores: PairScores | None = None,
        *,
        name: str = "retrieval_task",
    ) -> None:
        """Sets the loss up.

        Args:
            loss: Kind and settings. How many negatives of which sort there are is read off the
                arguments of a call.
            pair_scores: What stands in for the dot product in the losses of single pairs (`bce`,
                `margin`, `bpr`); the softmax has no other score.
            name: Of the layer.
        """
        super().__init__(name=name)
        self._loss = loss or Loss()
        self._pair_scores = pair_scores or _dot_products
        self._log_temperature = None
        if self._loss.learns_temperature:
            self._log_temperature = self.add_weight(
                "log_temperature",
                shape=[],
                initializer=keras.initializers.Constant(math.log(self._loss.temperature)),
            )

    @property
    def temperature(self) -> tf.Tensor | float:
        """What scores are divided by; learned as its logarithm, so that it stays positive."""
        if self._log_temperature is None:
            return self._loss.temperature
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
            query_embeddings: `[batch, embedding_dim]`.
            candidate_embeddings: `[num_candidates, embedding_dim]`; the first `batch` belong to
                the queries one by one, further ones are negatives of every query.
            candidate_ids: `[num_candidates]` identities of any dtype.
            candidate_log_q: `[num_candidates]` log probabilities that one draw of the sampler of
                all these negatives yields the candidate; see `losses.mixed_log_q`.
            known_positives: `[batch, (num_known)]` identities >= 0 that are no negatives.
            own_negative_embeddings: `[batch, num_own, embedding_dim]` negatives of single queries.
            is_own_negative: `[batch, num_own]` bool, false where there is none. None: all true.
            labels: `[batch]` 1 or 0, for `bce`. None: all 1, as the other kinds want them.
            sample_weight: `[batch]` weights of the examples. None: all 1.

        Returns:
            Scalar loss; under `tf.distribute` that of the global batch.
        """
        batch_size, dtype = tf.shape(query_embeddings)[0], query_embeddings.dtype
        positives = candidate_embeddings[:batch_size]
        weight = tf.ones([batch_size], dtype) if sample_weight is None else sample_weight
        own = self._own_negatives(query_embeddings, own_negative_embeddings, is_own_negative)
        scores = self._pair_scores(query_embeddings, positives[:, tf.newaxis])[:, 0]
        if self._loss.kind == "bce":
            return self._labelled_pairs(scores, labels, own, weight)
        if self._loss.kind != "softmax" and not self._loss.hard_negatives:
            return self._triplets(scores, own, weight)
        columns = self._columns(
            candidate_embeddings, batch_size, candidate_ids, candidate_log_q, known_positives
        )
        if not self._loss.hard_negatives:
            return self._softmax(query_embeddings, positives, columns, own, weight)
        hardest = losses.hardest_in_batch(
            query_embeddings / self.temperature,
            columns.embeddings,
            self._loss.hard_negatives,
            columns.masks,
            columns.correction,
        )
        chosen = self._own_negatives(
            query_embeddings,
            tf.gather(columns.embeddings, hardest.positions),
            hardest.is_negative,
        )
        if self._loss.kind != "softmax":
            return self._triplets(scores, _joined(chosen, own), weight)
        logits = self._own_logits(chosen)
        if columns.correction is not None:
            logits -= tf.gather(columns.correction, hardest.positions)
        return whole_loss(
            losses.softmax_over_scores(
                scores / self.temperature,
                tf.concat([logits, self._own_logits(own)], axis=1),
                sample_weight=weight,
                total_weight=total(tf.reduce_sum(weight)),
            )
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

    def _columns(
        self,
        candidates: tf.Tensor,
        batch_size: tf.Tensor,
        ids: tf.Tensor | None,
        log_q: tf.Tensor | None,
        known_positives: tf.RaggedTensor | None,
    ) -> _Columns:
        in_batch = self._loss.in_batch_negatives
        own_ids = None if ids is None else ids[:batch_size]
        if not in_batch:
            candidates, ids, log_q = (
                None if values is None else values[batch_size:]
                for values in (candidates, ids, log_q)
            )
        embeddings, first = gather(candidates)
        num_columns = tf.shape(embeddings)[0]
        masks, correction = NOTHING_MASKED, None
        if ids is not None and self._loss.mask != "none":
            known = known_positives if self._loss.mask == "known_positives" else None
            masks = known_places(own_ids, gather(ids).values, known)
        elif in_batch:
            masks = own_places(first + tf.range(batch_size), num_columns)
        if log_q is not None and self._loss.logq_correction and self._loss.kind == "softmax":
            num_draws = num_columns - 1 if in_batch else num_columns
            correction = losses.log_expected_count(gather(log_q).values, num_draws)
        return _Columns(embeddings, masks, correction)

    def _softmax(
        self,
        queries: tf.Tensor,
        positives: tf.Tensor,
        columns: _Columns,
        own: _OwnNegatives,
        weight: tf.Tensor,
    ) -> tf.Tensor:
        return whole_loss(
            losses.sampled_softmax(
                queries,
                positives,
                columns.embeddings,
                temperature=self.temperature,
                correction=columns.correction,
                masks=columns.masks,
                own_logits=self._own_logits(own),
                bilateral_weight=self._loss.bilateral_weight,
                sample_weight=weight,
                total_weight=total(tf.reduce_sum(weight)),
            )
        )

    def _own_logits(self, own: _OwnNegatives) -> tf.Tensor:
        logits = own.scores / self.temperature
        return tf.where(own.is_negative, logits, tf.constant(-float("inf"), logits.dtype))

    def _triplets(self, scores: tf.Tensor, own: _OwnNegatives, weight: tf.Tensor) -> tf.Tensor:
        weights = weight[:, tf.newaxis] * tf.cast(own.is_negative, weight.dtype)
        total_weight = total(tf.reduce_sum(weights))
        if self._loss.kind == "bpr":
            share = losses.bpr(
                scores,
                own.scores,
                temperature=self.temperature,
                sample_weight=weights,
                total_weight=total_weight,
            )
        else:
            share = losses.margin_ranking(
                scores,
                own.scores,
                margin=self._loss.margin,
                sample_weight=weights,
                total_weight=total_weight,
            )
        return whole_loss(share)

    def _labelled_pairs(
        self,
        scores: tf.Tensor,
        labels: tf.Tensor | None,
        own: _OwnNegatives,
        weight: tf.Tensor,
    ) -> tf.Tensor:
        labels = tf.ones_like(scores) if labels is None else tf.cast(labels, scores.dtype)
        # Own negatives belong to the positives; a pair labelled 0 has none.
        weights = (weight * labels)[:, tf.newaxis] * tf.cast(own.is_negative, weight.dtype)
        all_weights = tf.concat([weight, tf.reshape(weights, [-1])], 0)
        return whole_loss(
            losses.binary_cross_entropy(
                tf.concat([scores, tf.reshape(own.scores, [-1])], 0),
                tf.concat([labels, tf.zeros([tf.size(own.scores)], labels.dtype)], 0),
                temperature=self.temperature,
                sample_weight=all_weights,
                total_weight=total(tf.reduce_sum(all_weights)),
            )
        )


def _dot_products(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    return tf.einsum("bd,bnd->bn", queries, candidates)


def _joined(left: _OwnNegatives, right: _OwnNegatives) -> _OwnNegatives:
    return _OwnNegatives(*(tf.concat(pair, axis=1) for pair in zip(left, right, strict=True)))

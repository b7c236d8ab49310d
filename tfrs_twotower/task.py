"""The retrieval task: a TFRS task for two towers, anybody's or ours."""

from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses import accidental_hits, in_batch_softmax
from tfrs_twotower.schema.config import Loss


class RetrievalTask(keras.layers.Layer, tfrs.tasks.Task):
    """In-batch softmax with logQ correction, accidental hits masked, mean over the batch.

    Stands where `tfrs.tasks.Retrieval` would, in any `tfrs.Model`. Differences, all on purpose:
    the loss is a mean and not a sum, so that it does not depend on the batch size; sampling
    probabilities are given as logarithms and never clipped; ranking metrics are computed over the
    whole corpus by `tfrs_twotower.evaluate`, not batch by batch.

    Example:
        >>> task = RetrievalTask(temperature=0.5)
        >>> loss = task(tf.eye(2), tf.eye(2))
        >>> print(round(float(loss), 4))  # log(e^2 + e^0) - 2
        0.1269
    """

    def __init__(
        self,
        *,
        temperature: float = Loss().temperature,
        mask_accidental_hits: bool = Loss().mask_accidental_hits,
        name: str = "retrieval_task",
    ) -> None:
        """Sets the loss up.

        Args:
            temperature: Divides the scores before the softmax; positive.
            mask_accidental_hits: Whether negatives with the identity of the positive are left out;
                needs `candidate_ids` at each call.
            name: Of the layer.
        """
        super().__init__(name=name)
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}")
        self._temperature = temperature
        self._mask_accidental_hits = mask_accidental_hits

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        *,
        candidate_ids: tf.Tensor | None = None,
        candidate_log_q: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of a batch.

        Args:
            query_embeddings: `[batch, embedding_dim]`.
            candidate_embeddings: `[num_candidates, embedding_dim]`; the first `batch` are the
                positives, further ones are negatives of every query.
            candidate_ids: `[num_candidates]` identities of any dtype.
            candidate_log_q: `[num_candidates]` log sampling probabilities.
            sample_weight: `[batch]` weights of the examples.

        Returns:
            Scalar loss.
        """
        masked = None
        if self._mask_accidental_hits and candidate_ids is not None:
            masked = accidental_hits(candidate_ids, tf.shape(query_embeddings)[0])
        return in_batch_softmax(
            query_embeddings,
            candidate_embeddings,
            temperature=self._temperature,
            candidate_log_q=candidate_log_q,
            masked=masked,
            sample_weight=sample_weight,
        )

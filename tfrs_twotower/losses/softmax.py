"""Sampled softmax at the cost of its matrix products: the score matrix is never held whole."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfrs_twotower.losses.masks import NOTHING_MASKED, Masks, known_places, own_places

BLOCK_ROWS = 512
# In the bilateral softmax a constant logit this far below the positive keeps the log partition of a
# query without negatives finite; beside any negative it is too small to matter.
NOTHING_BELOW = 30.0

Gradient = Callable[[tf.Tensor], tuple[tf.Tensor, ...]]


def in_batch_softmax(
    query_embeddings: tf.Tensor,
    candidate_embeddings: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    candidate_log_q: tf.Tensor | None = None,
    candidate_ids: tf.Tensor | None = None,
    known_positives: tf.RaggedTensor | None = None,
    sample_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Softmax cross-entropy of each query against the candidates of the batch.

    `sampled_softmax` where the negatives of a query are the candidates but its own, without the
    copies of its own (accidental hits) and without its known positives.

    Args:
        query_embeddings: `[num_queries, embedding_dim]` floats.
        candidate_embeddings: `[num_candidates, embedding_dim]`; candidate i is the positive of
            query i, candidates from `num_queries` on are negatives of all.
        temperature: See `sampled_softmax`.
        candidate_log_q: `[num_candidates]` natural logarithms of the probability that one draw of
            the sampler yields the candidate; finite, <= 0, never clipped. None: no correction.
        candidate_ids: `[num_candidates]` identities of any dtype. None: accidental hits count.
        known_positives: `[num_queries, (num_known)]` identities >= 0; needs integer identities.
        sample_weight: See `sampled_softmax`.

    Returns:
        Scalar loss.

    Raises:
        ValueError: If known positives are given without integer identities, or static shapes do
            not agree.

    Example:
        >>> loss = in_batch_softmax(tf.eye(2), tf.eye(2), temperature=0.5)
        >>> print(round(float(loss), 4))  # log(e^2 + e^0) - 2
        0.1269
    """
    num_queries, num_candidates = (
        tf.shape(embeddings)[0] for embeddings in (query_embeddings, candidate_embeddings)
    )
    correction = None
    if candidate_log_q is not None:
        check_one_a_candidate("candidate_log_q", candidate_log_q, candidate_embeddings)
        correction = log_expected_count(candidate_log_q, num_candidates - 1)
    if candidate_ids is not None:
        check_one_a_candidate("candidate_ids", candidate_ids, candidate_embeddings)
        masks = known_places(candidate_ids[:num_queries], candidate_ids, known_positives)
    elif known_positives is not None:
        raise ValueError("`known_positives` need `candidate_ids` to be found in the batch by")
    elif correction is not None:
        masks = own_places(tf.range(num_queries), num_candidates)
    else:
        masks = NOTHING_MASKED
    return sampled_softmax(
        query_embeddings,
        candidate_embeddings[:num_queries],
        candidate_embeddings,
        temperature=temperature,
        correction=correction,
        masks=masks,
        positive_is_negative_too=masks is NOTHING_MASKED,
        sample_weight=sample_weight,
    )


def log_expected_count(log_q: tf.Tensor, num_draws: tf.Tensor | int) -> tf.Tensor:
    """How often a candidate is expected among the draws of a sampler, as a logarithm.

    Args:
        log_q: `[num_candidates]` natural logarithms of the probability of one draw.
        num_draws: Scalar; 0 counts as 1.
    """
    return log_q + tf.math.log(tf.cast(tf.maximum(num_draws, 1), log_q.dtype))


def sampled_softmax(
    query_embeddings: tf.Tensor,
    positive_embeddings: tf.Tensor,
    negative_embeddings: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    correction: tf.Tensor | None = None,
    masks: Masks = NOTHING_MASKED,
    positive_is_negative_too: bool = False,
    own_logits: tf.Tensor | None = None,
    bilateral_weight: float | None = None,
    sample_weight: tf.Tensor | None = None,
    total_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean of the softmax cross-entropy of each query's positive against negatives.

    With scores `s = q . c / temperature` and p the positive of query i, the loss is

        sum_i w_i * (log Z_i - s[i, p]) / sum_i w_i

        Z_i = exp(s[i, p]) + sum_j exp(s[i, j] - log n(j)) + sum_m exp(own_logits[i, m])

    where j runs over the negatives that are not masked for i, and n(j) is the number of times that
    j is expected among the negatives of a query. Without logQ correction n(j) is 1.

    The logQ correction makes the expectation of Z_i the partition function of the softmax over the
    whole corpus, masked candidates apart. It comes after the temperature. The positive is there
    with certainty and not drawn, so it is not corrected (Khrylchenko et al.; Yi et al. correct it
    too, which leaves a bias of its own).

    With a bilateral weight b the loss of a query is `b * log Z_i - s[i, p]`, and Z_i sums over the
    negatives alone: the gradient of the positive never fades, however well it scores, and that of
    the negatives is b times as large as without the weight.

    The score matrix is walked in blocks of `BLOCK_ROWS` queries: loss and gradients come from one
    pass of three matrix products, in memory linear in the batch.

    Args:
        query_embeddings: `[num_queries, embedding_dim]` floats.
        positive_embeddings: `[num_queries, embedding_dim]`.
        negative_embeddings: `[num_candidates, embedding_dim]`, negatives of every query.
        temperature: Positive scalar; may be a variable that is learned.
        correction: `[num_candidates]` finite logarithms `log n(j)`; see `log_expected_count`. None:
            no logQ correction.
        masks: Which entries are not negatives.
        positive_is_negative_too: Whether each query's positive has a column of its own among the
            negatives, neither masked nor corrected: it then counts there, which saves a mask.
        own_logits: `[num_queries, num_own]` logits of negatives of the query's own, -inf where
            there is none.
        bilateral_weight: The weight b, positive; not with `positive_is_negative_too`. None: the
            plain softmax.
        sample_weight: `[num_queries]` weights >= 0. None: all 1.
        total_weight: Scalar to divide by in place of the sum of `sample_weight`, where the
            queries are one replica's share of a larger batch.

    Returns:
        Scalar loss. A batch of no weight has loss 0.

    References:
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations,
        RecSys 2019.
        Khrylchenko et al., Correcting the LogQ Correction: Revisiting Sampled Softmax for
        Large-Scale Retrieval, RecSys 2025.
        Wu et al., BSL: Understanding and Improving Softmax Loss for Recommendation, ICDE 2024.
    """
    dtype = query_embeddings.dtype
    queries = query_embeddings / tf.cast(temperature, dtype)
    scores = tf.reduce_sum(queries * positive_embeddings, axis=1)
    weight = normalized_weight(scores, sample_weight, total_weight)
    if correction is not None:
        correction = tf.cast(correction, dtype)
    apart = tf.zeros([tf.shape(scores)[0], 0], dtype) if own_logits is None else own_logits
    if not positive_is_negative_too:
        positive = scores[:, tf.newaxis]
        if bilateral_weight is not None:
            positive = tf.stop_gradient(positive) - NOTHING_BELOW
        apart = tf.concat([positive, apart], axis=1)
    log_partition = _weighted_log_partition(
        queries, negative_embeddings, apart, weight, correction, masks
    )
    if bilateral_weight is not None:
        log_partition *= bilateral_weight
    return log_partition - tf.reduce_sum(weight * scores)


def normalized_weight(
    values: tf.Tensor, sample_weight: tf.Tensor | None, total_weight: tf.Tensor | None
) -> tf.Tensor:
    """Weights that turn a sum over `values` into their weighted mean; all 0 where all are 0.

    Args:
        values: What is averaged.
        sample_weight: Weights >= 0 that broadcast to `values`. None: all 1.
        total_weight: Scalar to divide by in place of the sum of the weights.
    """
    weight = tf.ones_like(values)
    if sample_weight is not None:
        weight *= tf.cast(sample_weight, values.dtype)
    if total_weight is None:
        total_weight = tf.reduce_sum(weight)
    return tf.math.divide_no_nan(weight, tf.cast(total_weight, values.dtype))


def check_one_a_candidate(name: str, values: tf.Tensor, embeddings: tf.Tensor) -> None:
    """Refuses values that are not one per candidate, as far as static shapes show."""
    if not values.shape.is_compatible_with(embeddings.shape[:1]):
        raise ValueError(
            f"`{name}` must hold one value per candidate: expected shape {embeddings.shape[:1]}, "
            f"got {values.shape}"
        )


def _weighted_log_partition(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    apart: tf.Tensor,
    weight: tf.Tensor,
    correction: tf.Tensor | None,
    masks: Masks,
) -> tf.Tensor:
    """`sum_i weight_i * log(sum_j exp(q_i . c_j - correction_j) + sum_m exp(apart_im))`.

    Differentiable by queries, candidates and `apart`, the logits that have no column of their own.
    """

    @tf.custom_gradient
    def walked(
        queries: tf.Tensor, candidates: tf.Tensor, apart: tf.Tensor
    ) -> tuple[tf.Tensor, Gradient]:
        total, *gradients = _walk(queries, candidates, apart, weight, correction, masks)
        return total, lambda upstream: tuple(upstream * gradient for gradient in gradients)

    return walked(queries, candidates, apart)


class _Walked(NamedTuple):
    """The loss and its gradients by what it depends on, of the blocks that are done."""

    block: tf.Tensor  # the next one
    total: tf.Tensor
    by_queries: tf.TensorArray  # a block: [rows, embedding_dim]
    by_candidates: tf.Tensor  # [embedding_dim, num_candidates], in the order of columns
    by_apart: tf.TensorArray  # a block: [rows, num_apart]


def _walk(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    apart: tf.Tensor,
    weight: tf.Tensor,
    correction: tf.Tensor | None,
    masks: Masks,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The value of `_weighted_log_partition` and its gradients, block by block."""
    dtype, embedding_dim = queries.dtype, queries.shape[1]
    num_queries = tf.shape(queries)[0]
    num_blocks = (num_queries + BLOCK_ROWS - 1) // BLOCK_ROWS
    candidates = masks.to_columns(candidates)
    left, right = queries, candidates
    if correction is not None:
        # One more dimension subtracts the correction within the matrix product.
        left = tf.concat([queries, tf.ones([num_queries, 1], dtype)], axis=1)
        right = tf.concat([candidates, -masks.to_columns(correction)[:, tf.newaxis]], axis=1)

    def rows_of(width: int | None) -> tf.TensorArray:
        return tf.TensorArray(dtype, num_blocks, infer_shape=False, element_shape=[None, width])

    def step(walked: _Walked) -> tuple[_Walked]:
        block, start = walked.block, walked.block * BLOCK_ROWS
        end = tf.minimum(start + BLOCK_ROWS, num_queries)
        logits = masks.applied(tf.matmul(left[start:end], right, transpose_b=True), start)
        shares = tf.nn.softmax(logits)
        # The largest share is at least 1 / num_candidates: its logarithm loses nothing.
        of_batch = tf.reduce_max(logits, axis=1) - tf.math.log(tf.reduce_max(shares, axis=1))
        parts = tf.concat([of_batch[:, tf.newaxis], apart[start:end]], axis=1)
        log_partition = tf.reduce_logsumexp(parts, axis=1, keepdims=True)
        weights = weight[start:end, tf.newaxis]
        part_weights = weights * tf.exp(parts - log_partition)
        batch_weights = part_weights[:, :1]
        # Transposed: the product is faster with the large matrix as it lies.
        by_candidates = tf.matmul(batch_weights * queries[start:end], shares, transpose_a=True)
        return (
            _Walked(
                block=block + 1,
                total=walked.total + tf.reduce_sum(weights * log_partition),
                by_queries=walked.by_queries.write(
                    block, batch_weights * tf.matmul(shares, candidates)
                ),
                by_candidates=walked.by_candidates + by_candidates,
                by_apart=walked.by_apart.write(block, part_weights[:, 1:]),
            ),
        )

    nothing = _Walked(
        block=tf.constant(0),
        total=tf.zeros([], dtype),
        by_queries=rows_of(embedding_dim),
        by_candidates=tf.zeros([embedding_dim, tf.shape(candidates)[0]], dtype),
        by_apart=rows_of(apart.shape[1]),
    )
    [walked] = tf.while_loop(
        lambda walked: walked.block < num_blocks, step, (nothing,), parallel_iterations=1
    )
    return (
        walked.total,
        tf.ensure_shape(walked.by_queries.concat(), queries.shape),
        masks.from_columns(tf.transpose(walked.by_candidates)),
        tf.ensure_shape(walked.by_apart.concat(), apart.shape),
    )

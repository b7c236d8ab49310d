"""The retrieval loss as mathematics: in-batch softmax, logQ correction, masked negatives.

Positive: the candidate of the query's own example; negative: every other candidate of the batch.
Accidental hit: a negative that is the very candidate of the positive.
"""

import tensorflow as tf

BLOCK_ROWS = 512


def in_batch_softmax(
    query_embeddings: tf.Tensor,
    candidate_embeddings: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    candidate_log_q: tf.Tensor | None = None,
    masked: tf.Tensor | None = None,
    sample_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    r"""Weighted mean of the softmax cross-entropy of each query against the batch's candidates.

    With logits `l[i, j] = q_i . c_j / temperature - log Q(j)` the loss is

        sum_i w_i * (log sum_j exp(l[i, j]) - l[i, i]) / sum_i w_i

    where j runs over the candidates that are not masked for i. The logQ correction follows Yi et
    al.: it comes after the temperature and applies to the positive too, so the logits estimate
    log p(candidate | query) of a softmax over the whole corpus up to a constant.

    The score matrix is walked in blocks of `BLOCK_ROWS` queries and never held whole: loss and
    gradients come from one pass of three matrix products, in memory linear in the batch.

    Args:
        query_embeddings: `[num_queries, embedding_dim]` floats.
        candidate_embeddings: `[num_candidates, embedding_dim]`, `num_candidates >= num_queries`;
            candidate i is the positive of query i, further candidates are negatives of all.
        temperature: Positive scalar; may be a variable that is learned.
        candidate_log_q: `[num_candidates]` natural logarithms of the probability that one draw of
            the sampler yields the candidate; <= 0, never clipped. None: no correction.
        masked: `[num_masked, 2]` int64 (query, candidate) positions that do not count as
            negatives, ordered by query; the positives must not be among them.
        sample_weight: `[num_queries]` weights >= 0. None: all 1.

    Returns:
        Scalar loss. A batch of no weight has loss 0.

    References:
        Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations,
        RecSys 2019.
    """
    dtype = query_embeddings.dtype
    num_queries = tf.shape(query_embeddings, tf.int64)[0]
    temperature = tf.cast(temperature, dtype)
    log_q = tf.zeros([1], dtype) if candidate_log_q is None else tf.cast(candidate_log_q, dtype)
    if masked is None:
        masked = tf.zeros([0, 2], tf.int64)
    if sample_weight is None:
        sample_weight = tf.ones([num_queries], dtype)
    weight = tf.math.divide_no_nan(
        tf.cast(sample_weight, dtype), tf.reduce_sum(tf.cast(sample_weight, dtype))
    )

    @tf.custom_gradient
    def loss_of(queries: tf.Tensor, candidates: tf.Tensor, temperature: tf.Tensor):  # type: ignore[no-untyped-def]
        loss, query_gradient, candidate_gradient = _walk(
            queries / temperature, candidates, log_q, masked, weight
        )

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # d l[i, j] / d temperature = -(q_i . c_j) / temperature^2
            scaled = query_gradient / temperature
            return (
                upstream * scaled,
                upstream * candidate_gradient,
                -upstream * tf.reduce_sum(scaled * queries) / temperature,
            )

        return loss, gradient

    return loss_of(query_embeddings, candidate_embeddings, temperature)


def _walk(
    scaled_queries: tf.Tensor,
    candidates: tf.Tensor,
    log_q: tf.Tensor,
    masked: tf.Tensor,
    weight: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The loss and its gradients by `scaled_queries` and `candidates`, block by block."""
    num_queries = tf.shape(scaled_queries, tf.int64)[0]
    query_gradients = tf.TensorArray(
        scaled_queries.dtype,
        size=tf.cast((num_queries + BLOCK_ROWS - 1) // BLOCK_ROWS, tf.int32),
        infer_shape=False,
        element_shape=[None, scaled_queries.shape[1]],
    )

    def step(start, loss, query_gradients, candidate_gradient):  # type: ignore[no-untyped-def]
        end = tf.minimum(start + BLOCK_ROWS, num_queries)
        queries, block_weight = scaled_queries[start:end], weight[start:end]
        logits = tf.matmul(queries, candidates, transpose_b=True) - log_q
        first, last = tf.unstack(tf.searchsorted(masked[:, 0], [start, end]))
        hidden = masked[first:last] - tf.stack([start, 0])
        logits = tf.tensor_scatter_nd_update(
            logits, hidden, tf.fill([last - first], tf.constant(-float("inf"), logits.dtype))
        )
        rows = tf.range(end - start)
        positives = tf.stack([rows, rows + start], axis=1)
        log_partition = tf.reduce_logsumexp(logits, axis=1)
        cross_entropy = log_partition - tf.gather_nd(logits, positives)
        by_logits = tf.exp(logits - log_partition[:, tf.newaxis]) * block_weight[:, tf.newaxis]
        by_logits = tf.tensor_scatter_nd_sub(by_logits, positives, block_weight)
        return (
            end,
            loss + tf.reduce_sum(block_weight * cross_entropy),
            query_gradients.write(
                tf.cast(start // BLOCK_ROWS, tf.int32), tf.matmul(by_logits, candidates)
            ),
            candidate_gradient + tf.matmul(by_logits, queries, transpose_a=True),
        )

    _, loss, query_gradients, candidate_gradient = tf.while_loop(
        lambda start, *_: start < num_queries,
        step,
        (
            tf.constant(0, tf.int64),
            tf.zeros([], scaled_queries.dtype),
            query_gradients,
            tf.zeros_like(candidates),
        ),
        parallel_iterations=1,
    )
    query_gradient = tf.ensure_shape(query_gradients.concat(), scaled_queries.shape)
    return loss, query_gradient, candidate_gradient


def accidental_hits(candidate_ids: tf.Tensor, num_queries: tf.Tensor | int) -> tf.Tensor:
    """Finds the negatives that are their query's own positive.

    Args:
        candidate_ids: `[num_candidates]` identities of any dtype, as strings or rows; the first
            `num_queries` are the positives.
        num_queries: How many queries the batch has.

    Returns:
        `[num_hits, 2]` int64 (query, candidate) positions with `query != candidate` and equal
        identities, ordered by query, then candidate.
    """
    num_queries = tf.cast(num_queries, tf.int64)
    identities = tf.cast(tf.unique(candidate_ids).idx, tf.int64)
    order = tf.argsort(identities, stable=True)
    in_order = tf.gather(identities, order)
    wanted = identities[:num_queries]
    first = tf.searchsorted(in_order, wanted, side="left", out_type=tf.int64)
    last = tf.searchsorted(in_order, wanted, side="right", out_type=tf.int64)
    copies = tf.ragged.range(first, last)
    candidates = tf.gather(tf.cast(order, tf.int64), copies.values)
    pairs = tf.stack([copies.value_rowids(), candidates], axis=1)
    return tf.boolean_mask(pairs, pairs[:, 0] != pairs[:, 1])

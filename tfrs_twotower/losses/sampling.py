"""How likely a sampler of negatives is to draw a candidate: what the logQ correction takes off."""

import tensorflow as tf


def mixed_log_q(
    in_batch_log_q: tf.Tensor,
    *,
    num_in_batch: tf.Tensor | int,
    num_uniform: tf.Tensor | int,
    corpus_size: int,
) -> tf.Tensor:
    """Log probability of a candidate under in-batch and uniform draws mixed.

        Q(j) = (B * Q_batch(j) + U / corpus_size) / (B + U)

    with B = `num_in_batch` and U = `num_uniform`. A candidate has this one probability whichever
    way it came into the batch. Without uniform draws it is that of `in_batch_log_q`, without
    in-batch draws it is 1 / `corpus_size`.

    Args:
        in_batch_log_q: `[num_candidates]` natural logarithms of each candidate's share of the
            train positives.
        num_in_batch: Negatives of a query that are positives of others, >= 0.
        num_uniform: Negatives of a query drawn uniformly from the corpus, >= 0.
        corpus_size: Candidates that may be drawn.

    Returns:
        `[num_candidates]` natural logarithms.

    Example:
        >>> log_q = mixed_log_q(
        ...     tf.math.log([0.5]), num_in_batch=3, num_uniform=1, corpus_size=10
        ... )
        >>> print(round(float(tf.exp(log_q[0])), 4))  # (3 * 0.5 + 1 * 0.1) / 4
        0.4

    References:
        Yang et al., Mixed Negative Sampling for Learning Two-tower Neural Networks in
        Recommendations, WWW 2020 (companion).
    """
    dtype = in_batch_log_q.dtype
    in_batch, uniform = tf.cast(num_in_batch, dtype), tf.cast(num_uniform, dtype)
    expected_in_batch = in_batch_log_q + tf.math.log(in_batch)
    expected_uniform = tf.math.log(uniform / corpus_size) * tf.ones_like(in_batch_log_q)
    expected = tf.reduce_logsumexp(tf.stack([expected_in_batch, expected_uniform]), axis=0)
    return expected - tf.math.log(in_batch + uniform)

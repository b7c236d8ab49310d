"""Losses of scores: a positive against negatives of its own, or labelled pairs."""

import tensorflow as tf

from tfrs_twotower.losses.softmax import normalized_weight


def dot_products(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Scores of each query's own candidates.

    Args:
        queries: `[batch, embedding_dim]` floats.
        candidates: `[batch, n, embedding_dim]`.

    Returns:
        `[batch, n]`.
    """
    return tf.einsum("bd,bnd->bn", queries, candidates)


def margin_ranking(
    positive_scores: tf.Tensor,
    negative_scores: tf.Tensor,
    *,
    margin: float,
    sample_weight: tf.Tensor | None = None,
    total_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean over triplets of `max(0, margin - (s+ - s-))`.

    Args:
        positive_scores: `[num_queries]` floats.
        negative_scores: `[num_queries, num_negatives]`.
        margin: By how much the positive must beat a negative; > 0, in units of the score.
        sample_weight: `[num_queries, num_negatives]` or `[num_queries, 1]` weights >= 0 of the
            triplets, 0 where there is no negative. None: all 1.
        total_weight: Scalar to divide by in place of the sum of the weights, where the triplets
            are one replica's share of a larger batch.

    Returns:
        Scalar loss; 0 where nothing has weight.

    Example:
        >>> loss = margin_ranking(tf.constant([0.9]), tf.constant([[0.7, 0.1]]), margin=0.5)
        >>> print(round(float(loss), 4))  # (0.3 + 0) / 2
        0.15
    """
    losses = tf.nn.relu(margin - (positive_scores[:, tf.newaxis] - negative_scores))
    return tf.reduce_sum(losses * normalized_weight(losses, sample_weight, total_weight))


def bpr(
    positive_scores: tf.Tensor,
    negative_scores: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    sample_weight: tf.Tensor | None = None,
    total_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean over triplets of `-log sigmoid((s+ - s-) / temperature)`.

    Args:
        positive_scores: `[num_queries]` floats.
        negative_scores: `[num_queries, num_negatives]`.
        temperature: Positive scalar; may be a variable that is learned.
        sample_weight: See `margin_ranking`.
        total_weight: See `margin_ranking`.

    Returns:
        Scalar loss; 0 where nothing has weight.

    Example:
        >>> loss = bpr(tf.constant([0.9]), tf.constant([[0.7]]), temperature=0.1)
        >>> print(round(float(loss), 4))  # log(1 + e^-2)
        0.1269

    References:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009.
    """
    differences = (positive_scores[:, tf.newaxis] - negative_scores) / temperature
    losses = tf.nn.softplus(-differences)  # -log sigmoid(x), without underflow.
    return tf.reduce_sum(losses * normalized_weight(losses, sample_weight, total_weight))


def binary_cross_entropy(
    scores: tf.Tensor,
    labels: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    sample_weight: tf.Tensor | None = None,
    total_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean over pairs of the cross-entropy of `sigmoid(score / temperature)`.

    A cosine needs a temperature below 1, best a learned one: the sigmoid of a bare cosine stays
    between 0.27 and 0.73 and can fit no label.

    Args:
        scores: `[num_pairs]` floats.
        labels: `[num_pairs]` 1 = positive, 0 = negative.
        temperature: Positive scalar; may be a variable that is learned.
        sample_weight: `[num_pairs]` weights >= 0. None: all 1.
        total_weight: Scalar to divide by in place of the sum of the weights, where the pairs are
            one replica's share of a larger batch.

    Returns:
        Scalar loss; 0 where nothing has weight.

    Example:
        >>> loss = binary_cross_entropy(tf.constant([0.2]), tf.constant([1]), temperature=0.1)
        >>> print(round(float(loss), 4))  # log(1 + e^-2)
        0.1269
    """
    losses = tf.nn.sigmoid_cross_entropy_with_logits(
        tf.cast(labels, scores.dtype), scores / temperature
    )
    return tf.reduce_sum(losses * normalized_weight(losses, sample_weight, total_weight))


def softmax_over_scores(
    positive_scores: tf.Tensor,
    negative_scores: tf.Tensor,
    *,
    sample_weight: tf.Tensor | None = None,
    total_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Weighted mean of the softmax cross-entropy of each positive against its own negatives.

    Args:
        positive_scores: `[num_queries]` floats, divided by the temperature.
        negative_scores: `[num_queries, num_negatives]` likewise; -inf where there is none.
        sample_weight: `[num_queries]` weights >= 0. None: all 1.
        total_weight: Scalar to divide by in place of the sum of the weights.

    Returns:
        Scalar loss; 0 where nothing has weight.
    """
    logits = tf.concat([positive_scores[:, tf.newaxis], negative_scores], axis=1)
    losses = tf.reduce_logsumexp(logits, axis=1) - positive_scores
    return tf.reduce_sum(losses * normalized_weight(losses, sample_weight, total_weight))

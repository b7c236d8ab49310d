"""The losses of scores, against arithmetic done by hand."""

import numpy as np
import pytest
import tensorflow as tf

from tfrs_twotower.losses import (
    binary_cross_entropy,
    bpr,
    margin_ranking,
    softmax_over_scores,
)

POSITIVE = tf.constant([0.9, 0.2])
NEGATIVE = tf.constant([[0.7, 0.1, 0.95], [0.4, -0.5, 0.0]])


def test_margin_ranking_asks_each_positive_to_win_by_the_margin():
    loss = margin_ranking(POSITIVE, NEGATIVE, margin=0.5)

    # 0.5 - 0.2, 0 (it wins by 0.8), 0.5 + 0.05; 0.5 + 0.2, 0 (it wins by 0.7), 0.5 - 0.2
    assert float(loss) == pytest.approx((0.3 + 0.55 + 0.7 + 0.3) / 6, rel=1e-6)


def test_a_triplet_that_is_won_by_more_than_the_margin_has_no_gradient():
    negative = tf.Variable([[0.1, 0.8]])
    with tf.GradientTape() as tape:
        loss = margin_ranking(tf.constant([0.9]), negative, margin=0.5)

    np.testing.assert_allclose(tape.gradient(loss, negative), [[0.0, 0.5]])


def test_bpr_is_the_negative_log_of_the_chance_that_the_positive_wins():
    loss = bpr(POSITIVE, NEGATIVE, temperature=0.5)

    differences = np.array([0.2, 0.8, -0.05, -0.2, 0.7, 0.2]) / 0.5
    assert float(loss) == pytest.approx(np.mean(np.log(1 + np.exp(-differences))), rel=1e-6)


def test_bpr_stays_finite_where_the_sigmoid_underflows():
    positive = tf.Variable([-200.0])
    with tf.GradientTape() as tape:
        loss = bpr(positive, tf.constant([[200.0]]))

    assert float(loss) == pytest.approx(400.0)
    np.testing.assert_allclose(tape.gradient(loss, positive), [-1.0])


def test_binary_cross_entropy_reads_labels_and_the_learned_scale():
    loss = binary_cross_entropy(
        tf.constant([0.3, -0.2, 0.6]), tf.constant([1, 0, 0]), temperature=0.2
    )

    # Logits 1.5, -1 and 3: -log sigmoid(1.5), -log(1 - sigmoid(-1)), -log(1 - sigmoid(3))
    expected = [np.log(1 + np.exp(-1.5)), np.log(1 + np.exp(-1)), np.log(1 + np.exp(3))]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


def test_softmax_over_scores_is_that_of_the_positive_among_its_own_negatives():
    negative = tf.constant([[0.7, -np.inf], [0.4, -0.5]])

    loss = softmax_over_scores(POSITIVE, negative)

    first = np.log(np.exp(0.9) + np.exp(0.7)) - 0.9
    second = np.log(np.exp(0.2) + np.exp(0.4) + np.exp(-0.5)) - 0.2
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_missing_negative_leaves_the_gradient_of_the_others_finite():
    negative = tf.Variable([[0.7, -np.inf]])
    with tf.GradientTape() as tape:
        loss = softmax_over_scores(tf.constant([0.7]), negative)

    np.testing.assert_allclose(tape.gradient(loss, negative), [[0.5, 0.0]])


LOSSES = {
    "margin": lambda scores, **kw: margin_ranking(tf.zeros(1), scores, margin=0.5, **kw),
    "bpr": lambda scores, **kw: bpr(tf.zeros(1), scores, **kw),
    "bce": lambda scores, **kw: binary_cross_entropy(scores, tf.constant([[1, 0]]), **kw),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_weights_weigh_and_the_mean_is_by_their_sum(loss):
    scores = tf.constant([[0.3, -0.1]])
    first = float(loss(scores, sample_weight=tf.constant([[1.0, 0.0]])))
    second = float(loss(scores, sample_weight=tf.constant([[0.0, 1.0]])))
    assert first != pytest.approx(second, rel=0.01)

    weighted = loss(scores, sample_weight=tf.constant([[2.0, 1.0]]))

    assert float(weighted) == pytest.approx((2 * first + second) / 3, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_shares_of_a_batch_add_up_to_the_loss_of_the_whole(loss):
    scores, weight = tf.constant([[0.3, -0.1]]), tf.constant([[2.0, 1.0]])

    shares = [
        float(loss(scores, sample_weight=weight * share, total_weight=tf.constant(3.0)))
        for share in ([[1.0, 0.0]], [[0.0, 1.0]])
    ]

    assert sum(shares) == pytest.approx(float(loss(scores, sample_weight=weight)), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_nothing_of_weight_is_no_loss(loss):
    assert float(loss(tf.constant([[0.3, -0.1]]), sample_weight=tf.zeros([1, 2]))) == 0.0

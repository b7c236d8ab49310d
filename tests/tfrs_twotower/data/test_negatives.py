"""Which negatives are drawn for whom: never a known positive, always the same by seed."""

import numpy as np
import pytest

from tfrs_twotower.data.negatives import (
    NegativeSampler,
    PairTable,
    draw_explicit,
    draw_implicit,
    draw_mined,
    draw_uniform,
    num_implicit,
)
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.loss import Loss

CORPUS_SIZE = 7


def table(pairs):
    queries, candidates = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    return PairTable.of(queries, candidates, CORPUS_SIZE)


NONE = PairTable.of(np.zeros(0, np.int64), np.zeros(0, np.int64), CORPUS_SIZE)
LIKED = table([(2, 6), (0, 1), (2, 0), (0, 1), (2, 3)])
DISLIKED = table([(0, 5), (2, 2), (2, 4), (2, 6)])


def seed(number):
    return tf.constant([number, 1], tf.int64)


def test_pairs_are_sorted_and_counted_once():
    rows = LIKED.of_queries(tf.constant([2, 1, 0, 9]))

    assert rows.to_list() == [[0, 3, 6], [], [1], []]
    assert len(LIKED) == 4


def test_a_pair_is_held_or_not():
    held = LIKED.holds(tf.constant([[0], [2], [9]]), tf.constant([[1, 0, 6]]))

    np.testing.assert_array_equal(held, [[1, 0, 0], [0, 1, 1], [0, 0, 0]])


def test_a_table_without_pairs_answers_too():
    assert NONE.of_queries(tf.constant([0, 3])).to_list() == [[], []]
    assert not tf.reduce_any(NONE.holds(tf.constant([0, 3]), tf.constant([0, 3])))


def test_implicit_negatives_are_each_candidate_alike_but_no_known_positive():
    drawn = draw_implicit(tf.constant([2] * 1000), 7, LIKED, seed(0)).numpy()

    values, counts = np.unique(drawn, return_counts=True)
    # 0, 3 and 6 are liked: three sevenths of the draws are no negatives, the others even.
    assert values.tolist() == [-1, 1, 2, 4, 5]
    np.testing.assert_allclose(counts, [3000, 1000, 1000, 1000, 1000], rtol=0.15)


def test_explicit_negatives_are_drawn_from_the_query_s_own():
    drawn = draw_explicit(tf.constant([2] * 3000 + [0, 1, 8]), 1, DISLIKED, seed(0)).numpy()[:, 0]

    values, counts = np.unique(drawn[:3000], return_counts=True)
    assert values.tolist() == [2, 4, 6]
    np.testing.assert_allclose(counts, 1000, rtol=0.15)
    assert drawn[3000:].tolist() == [5, -1, -1]


def test_mined_negatives_are_drawn_from_the_query_s_own():
    mined = tf.constant([[3, 4], [5, -1], [6, 0]])

    drawn = draw_mined(tf.constant([1, 0, 1]), 40, mined, seed(0)).numpy()

    assert [set(row) for row in drawn] == [{5, -1}, {3, 4}, {5, -1}]


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: draw_uniform([50], CORPUS_SIZE, seed),
        lambda seed: draw_implicit(tf.range(50), 2, LIKED, seed),
        lambda seed: draw_explicit(tf.fill([50], 2), 2, DISLIKED, seed),
        lambda seed: draw_mined(tf.fill([50], 1), 2, tf.reshape(tf.range(20), [2, 10]), seed),
    ],
    ids=["uniform", "implicit", "explicit", "mined"],
)
def test_a_seed_always_draws_the_same_and_another_one_something_else(draw):
    np.testing.assert_array_equal(draw(seed(3)), draw(seed(3)))
    assert not np.array_equal(draw(seed(3)), draw(seed(4)))


@pytest.mark.parametrize(
    ("kind", "num_explicit", "expected"),
    [("margin", 29, 4), ("margin", 30, 0), ("bce", 29, 4), ("bce", 30, 0), ("softmax", 0, 0)],
)
def test_implicit_negatives_stand_in_while_explicit_ones_are_under_three_tenths(
    kind, num_explicit, expected
):
    assert num_implicit(Loss(kind=kind), num_positives=100, num_explicit=num_explicit) == expected


def test_a_number_of_implicit_negatives_that_is_given_holds():
    loss = Loss(kind="margin", implicit_negatives=2)

    assert num_implicit(loss, num_positives=100, num_explicit=99) == 2


def sampler(loss, liked=LIKED, disliked=DISLIKED, mined=None):
    return NegativeSampler(loss, liked, disliked, mined, seed=5)


def test_own_negatives_are_explicit_then_implicit_then_mined():
    loss = Loss(kind="margin", explicit_negatives=1, implicit_negatives=2, mined_negatives=1)
    mined = np.array([[3], [3], [5]])

    rows = sampler(loss, mined=mined).own(tf.constant([2] * 200), tf.constant(0)).numpy()

    assert rows.shape == (200, 4)
    # The pair (2, 6) is liked and disliked: it counts as liked.
    assert set(rows[:, 0]) == {2, 4}
    assert set(rows[:, 1:3].ravel()) == {-1, 1, 2, 4, 5}
    assert set(rows[:, 3]) == {5}


def test_before_the_first_mining_there_are_no_mined_negatives():
    assert sampler(Loss(mined_negatives=3)).own(tf.constant([0]), tf.constant(0)) is None


def test_the_streams_of_a_step_are_not_the_same_draws():
    loss = Loss(kind="bpr", uniform_negatives=40, hard_negatives=2, implicit_negatives=1)
    drawing = sampler(loss, liked=NONE, disliked=NONE)

    uniform = drawing.uniform(tf.constant(3))
    implicit = drawing.own(tf.range(40), tf.constant(3))[:, 0]

    assert not np.array_equal(uniform, implicit)


def test_known_positives_are_given_where_the_loss_masks_them():
    rows = tf.constant([0, 2])

    assert sampler(Loss()).known_positives(rows).to_list() == [[1], [0, 3, 6]]
    assert sampler(Loss(mask="accidental_hits")).known_positives(rows) is None
    assert sampler(Loss(kind="margin")).known_positives(rows) is None
    assert sampler(Loss(kind="margin", hard_negatives=1)).known_positives(rows) is not None


def test_log_q_is_that_of_the_mixture_of_the_batch():
    in_batch_log_q = np.log(np.array([0.4, 0.6, 0.01, 0.01, 0.01, 0.01, 0.01], np.float32))

    def q(**settings):
        return np.exp(sampler(Loss(**settings)).log_q(in_batch_log_q, 11))

    np.testing.assert_allclose(q(), np.exp(in_batch_log_q), rtol=1e-5)
    # Ten other positives, 30 uniform draws: (10 q + 30 / 7) / 40
    np.testing.assert_allclose(
        q(uniform_negatives=30), (10 * np.exp(in_batch_log_q) + 30 / 7) / 40, rtol=1e-5
    )
    np.testing.assert_allclose(
        q(uniform_negatives=30, in_batch_negatives=False), np.full(7, 1 / 7), rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["margin", "bpr", "bce"])
def test_a_loss_without_any_negative_is_refused(kind):
    with pytest.raises(UserError, match=rf"`loss.kind: {kind}` has no negatives: the train split"):
        sampler(Loss(kind=kind, implicit_negatives=0), disliked=NONE)

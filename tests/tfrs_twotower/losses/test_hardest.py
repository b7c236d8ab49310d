"""The hardest negatives of a batch, against a sort."""

import numpy as np
import pytest
import tensorflow as tf

from tfrs_twotower.losses import hardest, hardest_in_batch
from tfrs_twotower.losses.masks import NOTHING_MASKED, known_places


def test_the_best_scoring_negatives_are_found_best_first():
    scores = tf.constant([[0.5, 0.1, 0.9, 0.7], [0.2, 0.8, 0.3, 0.6]])
    masks = known_places(tf.constant([0, 1]), tf.constant([0, 1, 2, 0]))

    found = hardest_in_batch(scores, tf.eye(4), 2, masks)

    # Candidates 0 and 3 are the first query's own positive, candidate 1 the second's.
    np.testing.assert_array_equal(found.positions, [[2, 1], [3, 2]])
    assert tf.reduce_all(found.is_negative)


def test_the_correction_is_taken_off_before_the_choice():
    found = hardest_in_batch(
        tf.constant([[0.5, 0.4]]), tf.eye(2), 1, NOTHING_MASKED, tf.constant([0.3, 0.1])
    )

    np.testing.assert_array_equal(found.positions, [[1]])


def test_where_fewer_are_negatives_the_rest_is_marked():
    masks = known_places(tf.constant([5, 6]), tf.constant([5, 6, 5, 5]))

    found = hardest_in_batch(tf.ones([2, 1]), tf.ones([4, 1]), 3, masks)

    np.testing.assert_array_equal(found.is_negative, [[True, False, False], [True] * 3])
    assert int(found.positions[0, 0]) == 1


@pytest.mark.parametrize("block_rows", [4, 64])
def test_blocks_find_what_a_sort_of_the_whole_finds(block_rows, monkeypatch):
    monkeypatch.setattr(hardest, "BLOCK_ROWS", block_rows)
    rng = np.random.default_rng(2)
    queries, candidates = rng.normal(size=(11, 3)), rng.normal(size=(13, 3))
    ids = rng.integers(0, 6, 13)

    masks = known_places(tf.constant(ids[:11]), tf.constant(ids))
    found = hardest_in_batch(tf.constant(queries), tf.constant(candidates), 4, masks)

    scores = queries @ candidates.T
    for row in range(11):
        allowed = [j for j in np.argsort(-scores[row]) if ids[j] != ids[row]]
        assert found.positions[row].numpy().tolist() == allowed[:4]

"""Candidates in the order of leaves, and the leaves near a query."""

import numpy as np
import pyarrow as pa

from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.keras import tf
from tfrs_twotower.retrieval.attributes import FilterAttribute
from tfrs_twotower.retrieval.lists import NO_MORE

# Leaf 0 points to the right, leaf 1 upwards; leaf 2 is empty and candidate 2 in none.
EMBEDDINGS = np.array([[0, 1], [1, 0], [-1, 0], [0.6, 0.8], [0.8, -0.6], [1, 0]], np.float32)
LEAF_OF = np.array([1, 0, -1, 1, 0, 0], np.int32)
QUERIES = tf.constant([[1.0, 0.1], [0.0, 1.0], [0.0, 1.0]])


def leaves() -> CandidateLeaves:
    return CandidateLeaves(EMBEDDINGS, LEAF_OF, 3)


def test_candidates_of_a_leaf_lie_together():
    # 2; 1, 4, 5; 0, 3.
    assert leaves().place_of.tolist() == [4, 1, 0, 5, 2, 3]


def test_the_nearest_leaves_come_first_after_what_is_in_no_leaf():
    first, last = leaves().near(QUERIES, tf.constant([1, 2, 0]))

    pieces = np.stack([first, last], axis=2).tolist()
    assert [[piece for piece in of_query if piece[0] < piece[1]] for of_query in pieces] == [
        [[0, 1], [1, 4]],
        # An empty leaf is as far as one at a right angle.
        [[0, 1], [4, 6]],
        [[0, 1]],
    ]


def test_the_leaves_may_be_given_as_rows():
    rows = np.array([[1, 4, 5], [0, 3, -1], [-1, -1, -1]], np.int32)

    found = CandidateLeaves.of_rows(EMBEDDINGS, rows)

    assert found.place_of.tolist() == leaves().place_of.tolist()


def test_the_candidates_of_a_value_are_found_by_leaf():
    column = pa.array([["a"], ["a", "b"], ["b"], [], ["b"], ["a", "b"]])
    attribute = FilterAttribute("tag", column)
    wanted = attribute.rows(tf.constant([["a", ""], ["b", "a"]]))
    first, last = tf.constant([[1, 0], [4, 0]]), tf.constant([[4, 1], [6, 1]])

    listed = attribute.near(leaves()).listed(wanted, first, last)

    rows = listed.rows(tf.constant([True, True])).numpy()
    # Of candidates 1, 4, 5 and 2 those that have a; of 0, 3 and 2 those that have b or a.
    assert [set(of_query.tolist()) - {NO_MORE} for of_query in rows] == [{1, 5}, {2, 0}]
    assert listed.size.numpy().tolist() == [2, 2]

"""Scores of pairs and of everything with everything agree."""

import numpy as np
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.models.scorers import DOT_PRODUCT, ScoringLayer

DRAW = np.random.default_rng(4)
CANDIDATES = DRAW.normal(size=[5, 3]).astype("f")


def test_the_dot_product_by_hand():
    queries = np.array([[1, 2, 0], [0, 1, 1]], np.float32)
    candidates = np.array([[1, 0, 0], [0, 1, 3]], np.float32)

    assert DOT_PRODUCT.matrix(queries, candidates).tolist() == [[1, 2], [0, 4]]
    assert DOT_PRODUCT(queries, candidates[:, np.newaxis]).numpy().tolist() == [[1], [4]]


@pytest.mark.parametrize(
    ("scorer", "query_dim"),
    [
        pytest.param(DOT_PRODUCT, 3, id="dot-product"),
        pytest.param(ScoringLayer([], seed=1), 6, id="linear"),
        pytest.param(ScoringLayer([4], seed=1), 6, id="network"),
    ],
)
def test_a_matrix_holds_the_scores_of_all_pairs(scorer, query_dim):
    queries = DRAW.normal(size=[4, query_dim]).astype("f")

    matrix = scorer.matrix(queries, CANDIDATES)

    assert matrix.flags.writeable  # A ranking masks what it excludes in place.
    pairs = scorer(tf.constant(queries), tf.tile(CANDIDATES[np.newaxis], [4, 1, 1]))
    np.testing.assert_allclose(matrix, pairs, atol=1e-6)

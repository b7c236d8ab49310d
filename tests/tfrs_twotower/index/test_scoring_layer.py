"""Exact search by a scoring layer."""

import numpy as np
import pytest

from tfrs_twotower.index.scoring_layer import ScoredIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.models.scorers import ScoringLayer

SIZE, DIM = 23, 4


@pytest.fixture(params=[[], [6]], ids=["linear", "network"])
def scorer(request):
    layer = ScoringLayer(request.param, seed=9)
    layer(tf.zeros([1, 2 * DIM]), tf.zeros([1, 1, DIM]))
    return layer


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_best_by_the_layer_are_found_with_their_scores(scorer):
    embeddings, queries = normal(1, SIZE, DIM), normal(2, 5, 2 * DIM)
    index = ScoredIndex(embeddings, scorer)
    every = scorer(tf.constant(queries), tf.tile(embeddings[np.newaxis], [5, 1, 1])).numpy()

    rows, scores = index.search(tf.constant(queries), tf.constant(7))

    expected = np.argsort(-every, axis=1, kind="stable")[:, :7]
    assert rows.numpy().tolist() == expected.tolist()
    np.testing.assert_allclose(scores, np.take_along_axis(every, expected, axis=1), atol=1e-5)


def test_given_candidates_are_scored_by_the_layer(scorer):
    embeddings, queries = normal(1, SIZE, DIM), normal(2, 2, 2 * DIM)
    rows = np.array([[3, 0, 22], [1, 1, 5]])

    scores = ScoredIndex(embeddings, scorer).score(tf.constant(queries), tf.constant(rows))

    np.testing.assert_allclose(scores, scorer(tf.constant(queries), embeddings[rows]), atol=1e-5)


def test_a_search_in_chunks_finds_the_same(scorer, monkeypatch):
    embeddings, queries = normal(1, SIZE, DIM), tf.constant(normal(2, 5, 2 * DIM))
    index = ScoredIndex(embeddings, scorer)
    whole = index.search(queries, tf.constant(4))

    monkeypatch.setattr("tfrs_twotower.index.scoring_layer.CHUNK_ELEMENTS", 2 * SIZE * scorer.width)
    chunked = index.search(queries, tf.constant(4))

    np.testing.assert_array_equal(chunked[0], whole[0])
    np.testing.assert_allclose(chunked[1], whole[1], atol=1e-6)

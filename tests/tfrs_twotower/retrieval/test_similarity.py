"""Scores from stored vectors, against cosines by hand."""

import numpy as np
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.retrieval.retriever import CandidateIds
from tfrs_twotower.retrieval.similarity import Similarity, StoredQueries

LOWEST = float(np.finfo(np.float32).min)
IDS = ["a", "b", "c"]
CANDIDATES = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
QUERIES = StoredQueries(["north", "east"], np.array([[0.0, 1.0], [1.0, 0.0]], np.float32))


@pytest.fixture(scope="module")
def signatures():
    return Similarity(CandidateIds(IDS), CANDIDATES, QUERIES).signatures()


def score(signatures, name="score", **inputs):
    function = signatures[name].function
    return function({key: tf.constant(value) for key, value in inputs.items()})["scores"].numpy()


def test_stored_queries_have_the_cosines_in_the_order_of_the_candidates(signatures):
    found = score(
        signatures, query_id=["east", "north"], candidate_ids=[["c", "b", "a"], ["a", "b", "b"]]
    )

    np.testing.assert_allclose(found, [[0.0, 0.8, 1.0], [0.0, 0.6, 0.6]], atol=1e-7)


def test_what_is_unknown_has_the_lowest_number(signatures):
    found = score(
        signatures, query_id=["east", "nobody", ""], candidate_ids=[["a", "x", ""]] * 3
    ).tolist()

    assert found == [[1.0, LOWEST, LOWEST], [LOWEST] * 3, [LOWEST] * 3]


def test_one_list_serves_all_queries(signatures):
    found = score(signatures, query_id=["east", "north"], candidate_ids=[["b", "a"]])

    np.testing.assert_allclose(found, [[0.8, 1.0], [0.6, 0.0]], atol=1e-7)


def test_given_embeddings_are_of_any_length_and_damaged_ones_count_as_zero(signatures):
    found = score(
        signatures,
        "score_embedding",
        query_embedding=[[0.0, 10.0], [0.0, 0.0], [float("nan"), 1.0]],
        candidate_ids=[["b", "c", "x"]],
    )

    expected = [[0.6, 1.0, LOWEST], [0.0, 0.0, LOWEST], [0.0, 0.0, LOWEST]]
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("shape", [(0, 2), (2, 0)], ids=["no query", "no candidate"])
def test_nothing_is_scored_as_nothing(signatures, shape):
    queries, ids = np.full(shape[0], "east", object), np.full(shape, "a", object)

    assert score(signatures, query_id=queries, candidate_ids=ids).shape == shape


def test_without_stored_queries_they_come_as_embeddings():
    assert Similarity(CandidateIds(IDS), CANDIDATES).signatures().keys() == {"score_embedding"}

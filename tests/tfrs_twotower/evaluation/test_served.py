"""What is recommended under the rules of a request, from query embeddings."""

import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.evaluation.served import ServedRetriever
from tfrs_twotower.index.exact import ExactIndex
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.rules import Rules

NOTHING = Pairs(*np.zeros([2, 0], np.int64))
IDS = np.array(["Äpfel", "Ökonomie", "Über", "海"])  # In the order of their bytes.
GENRES = ["war", "drama", "war", "drama"]


@pytest.fixture(scope="module")
def retriever() -> ServedRetriever:
    """Candidate n scores highest for the query along dimension n, then the lower rows do."""
    attributes = CandidateAttributes(Rules(filters=["genre"]), pa.table({"genre": GENRES}))
    index = ExactIndex(np.eye(4, dtype=np.float32))
    return ServedRetriever(index, IDS, attributes, width=4, max_k=6)


def test_excluded_candidates_take_no_place_in_a_list(retriever):
    excluded = Pairs(np.array([0, 0]), np.array([3, 0]))

    rows = retriever.top_rows(np.eye(4, dtype=np.float32)[[3, 2]], excluded, 2)

    assert rows.tolist() == [[1, 2], [2, 0]]


def test_a_list_ends_where_no_candidate_is_eligible(retriever):
    excluded = Pairs(np.array([0, 0, 0]), np.array([0, 1, 3]))

    rows = retriever.top_rows(np.eye(4, dtype=np.float32)[:2], excluded, 3)

    assert rows.tolist() == [[2, -1, -1], [1, 0, 2]]


def test_a_list_may_be_longer_than_the_corpus(retriever):
    assert retriever.top_rows(np.eye(4, dtype=np.float32)[:1], NOTHING, 6).tolist() == [
        [0, 1, 2, 3, -1, -1]
    ]


def test_rules_are_those_of_recommend(retriever):
    rows = retriever.top_rows(
        np.eye(4, dtype=np.float32)[:2], NOTHING, 2, {"filter_genre_any": ["drama"]}
    )

    assert rows.tolist() == [[1, 3], [1, 3]]


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        pytest.param({"min_scor": 0.1}, "no input `min_scor`: did you mean `min_score`", id="name"),
        pytest.param({"exclude_ids": ["a"]}, "no input `exclude_ids`", id="exclusions"),
        pytest.param({"min_score": "high"}, "min_score: expected a number, got 'high'", id="text"),
        pytest.param({"min_score": [0.1]}, "expected a number", id="list"),
        pytest.param({"filter_genre_any": "war"}, r"expected a list \(text\)", id="scalar"),
        pytest.param({"mmr_lambda": 3}, "`mmr_lambda` must be between 0 and 1", id="range"),
    ],
)
def test_rules_that_are_refused_say_why(retriever, rules, message):
    with pytest.raises(UserError, match=message):
        retriever.top_rows(np.eye(4, dtype=np.float32)[:1], NOTHING, 2, rules)

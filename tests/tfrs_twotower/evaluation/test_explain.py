"""Explanations of single recommendations."""

import numpy as np
import pytest

from tests import every_kind
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.explain import Contribution, Explanation, Neighbour, explain
from tfrs_twotower.keras import tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.training.train import train

# A model of every kind of feature is trained.
pytestmark = pytest.mark.slow

QUERY = {
    "user": "user-3",
    "plan": "paid",
    "age": 31.0,
    "recent": ["item-2", "item-7", "item-5"],
    "moment": 1_709_712_000,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    config = every_kind.config(epochs=1)
    data = every_kind.write_prepared(root / "prepared", config)
    train(config, data, root / "run")
    return root / "run", data


def test_the_score_and_rank_are_those_of_the_towers(folders):
    loaded = load_run(*folders)
    corpus = loaded.data.corpus()
    row = corpus.candidate_ids.tolist().index("item-9")

    found = explain(*folders, QUERY, "item-9")

    raw = {
        "user": tf.constant(["user-3"]),
        "plan": tf.constant(["paid"]),
        "interests": tf.constant([[""]]),
        "bio": tf.constant([""]),
        "age": tf.constant([31.0]),
        "member": tf.constant([np.nan]),
        "taste": tf.fill([1, 3], np.nan),
        "recent": tf.constant([["item-2", "item-7", "item-5"]]),
        "moment": tf.constant([1_709_712_000], tf.int64),
    }
    query = embed(loaded.model.query_tower, loaded.data.query_encoder()(raw))
    scores = (query @ embed(loaded.model.candidate_tower, corpus.features).T)[0]
    assert found.score == pytest.approx(scores[row], abs=1e-5)
    assert found.rank == 1 + sorted(-scores).index(-scores[row])
    assert found.corpus_size == every_kind.NUM_CANDIDATES


def test_the_nearest_of_the_history_come_with_their_cosines(folders):
    loaded = load_run(*folders)
    corpus = loaded.data.corpus()
    vectors = dict(
        zip(corpus.candidate_ids, embed(loaded.model.candidate_tower, corpus.features), strict=True)
    )

    found = explain(*folders, QUERY, "item-9")

    expected = {name: float(vectors[name] @ vectors["item-9"]) for name in QUERY["recent"]}
    by_similarity = sorted(expected, key=lambda name: -expected[name])
    assert [one.candidate_id for one in found.nearest] == by_similarity
    assert [one.similarity for one in found.nearest] == pytest.approx(
        [expected[name] for name in by_similarity], abs=1e-5
    )


def test_what_a_feature_adds_is_the_score_less_that_without_it(folders):
    whole = explain(*folders, QUERY, "item-9")

    # Without age: the missing value of the user that the data does not know either.
    without = explain(*folders, {k: v for k, v in QUERY.items() if k != "age"}, "item-9")

    adds = {one.feature: one.adds for one in whole.contributions}
    assert adds["age"] == pytest.approx(whole.score - without.score, abs=1e-5)


def test_every_known_feature_of_both_sides_has_its_say_the_weightiest_first(folders):
    found = explain(*folders, QUERY, "item-9")

    sides = {one.feature: one.side for one in found.contributions}
    assert sides.keys() == {*QUERY, *every_kind.config().candidate_features}
    assert (sides["plan"], sides["moment"], sides["genres"]) == ("query", "context", "candidate")
    weights = [abs(one.adds) for one in found.contributions]
    assert weights == sorted(weights, reverse=True)


def test_the_history_of_a_known_query_is_filled_in(folders):
    found = explain(*folders, {"user": "user-3"}, "item-9")

    assert found.query["recent"]
    assert found.nearest


def test_an_id_that_nobody_knows_has_no_say(folders):
    found = explain(*folders, {"user": "nobody", "age": 30}, "item-9")

    assert not found.is_known
    of_query = {one.feature for one in found.contributions if one.side == "query"}
    assert of_query == {"age"}


def test_an_explanation_is_sentences_and_a_table():
    explanation = Explanation(
        query={"user": "7"},
        is_known=False,
        candidate_id="12",
        candidate_title="Alien",
        score=0.75,
        rank=3,
        corpus_size=3416,
        nearest=[Neighbour("9", "Aliens", 0.815)],
        contributions=[
            Contribution("past", "query", 0.5),
            Contribution("clock", "context", -0.125),
            Contribution("price", "candidate", 0.0001),
        ],
    )

    assert explanation.in_words() == [
        "Alien (12) scores 0.750: rank 3 of 3,416.",
        "The query's id is unknown: only the other features were used.",
        "Of the history it is most similar to Aliens (9) (0.81).",
        "The query's past adds 0.500: without it the score would be 0.250.",
        "The context's clock takes 0.125 away: without it the score would be 0.875.",
        "The candidate's price changes nothing.",
    ]
    assert explanation.to_frame().to_dict("index") == {
        "past": {"side": "query", "adds": 0.5},
        "clock": {"side": "context", "adds": -0.125},
        "price": {"side": "candidate", "adds": 0.0001},
    }
    assert repr(explanation).startswith("Alien (12) scores 0.750: rank 3 of 3,416.\n")
    assert explanation.as_dict()["title"] == "Alien"


@pytest.mark.parametrize(
    ("query", "candidate", "error", "said"),
    [
        pytest.param(
            QUERY, "item-99", UserError, "no candidate 'item-99' .* such as 'item-", id="candidate"
        ),
        pytest.param({"usr": "x"}, "item-9", UsageError, "usr is no query", id="name"),
        pytest.param(
            {"age": "old"}, "item-9", UsageError, "age takes a number, got 'old'", id="value"
        ),
        pytest.param({"moment": 1.5}, "item-9", UsageError, "moment takes Unix seconds", id="part"),
    ],
)
def test_mistakes_are_refused_in_a_line(folders, query, candidate, error, said):
    with pytest.raises(error, match=said) as refused:
        explain(*folders, query, candidate)

    assert len(str(refused.value).splitlines()) == 1


def test_the_prepared_folder_is_read_only(folders):
    """Explaining writes nothing."""
    before = sorted(folders[0].rglob("*"))

    explain(*folders, QUERY, "item-9")

    assert sorted(folders[0].rglob("*")) == before
    PreparedData(folders[1], every_kind.config(epochs=1))

"""What a model says for itself: explanations, and how much the moment changes lists."""

import numpy as np
import pytest

from tests import every_kind
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.context_sensitivity import sensitivity
from tfrs_twotower.evaluation.explain import Contribution, Explanation, Neighbour, explain
from tfrs_twotower.evaluation.moments import morning_and_evening
from tfrs_twotower.keras import tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError, UserError, parse_config
from tfrs_twotower.training.train import train

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


def test_an_explanation_reads_as_sentences():
    told = Explanation(
        query={"user": "7"},
        is_known=False,
        candidate_id="12",
        title="Alien",
        score=0.75,
        rank=3,
        corpus_size=3416,
        nearest=[Neighbour("9", "Aliens", 0.815)],
        contributions=[
            Contribution("past", "query", 0.5),
            Contribution("clock", "context", -0.125),
            Contribution("price", "candidate", 0.0001),
        ],
    ).in_words()

    assert told == [
        "Alien (12) scores 0.750: rank 3 of 3,416.",
        "The query's id is not known: only what else was given speaks.",
        "Of the history it is nearest to Aliens (9) (0.81).",
        "The query's past adds 0.500: without it the score would be 0.250.",
        "The context's clock takes 0.125 away: without it the score would be 0.875.",
        "The candidate's price changes nothing.",
    ]


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


# --- moments --------------------------------------------------------------------------------


def test_a_moment_is_as_alike_to_itself_as_can_be(folders):
    moment = {"moment": 1_709_712_000}

    found = sensitivity(*folders, first=moment, second=moment)

    assert found.overlap_at_10 == 1.0
    assert found.context_mode == "user_tower"


def test_morning_and_evening_are_by_the_clock_of_the_feature(folders):
    found = sensitivity(*folders)

    # Paris is an hour ahead of UTC in March: 07:00 and 19:00 UTC, twelve hours apart.
    assert found.first["moment"] % 86_400 == 7 * 3600
    assert found.second["moment"] - found.first["moment"] == 12 * 3600
    assert 0.0 <= found.overlap_at_10 <= 1.0


def test_a_model_that_reads_no_hour_has_no_morning():
    config = parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}}\n"
        "  context: {day: {kind: timestamp, parts: [weekday]}}\n"
        "  candidate: {item: {kind: id}}",
        "test.yaml",
    )

    assert morning_and_evening(config) is None


def test_a_moment_of_no_feature_is_refused(folders):
    with pytest.raises(UsageError, match="weather is no context feature: expected some of moment"):
        sensitivity(*folders, first={"weather": 1}, second={"weather": 2})


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        pytest.param({}, "a moment is empty: .* one of moment", id="empty"),
        pytest.param({"moment": "noon"}, "moment takes Unix seconds, .* got 'noon'", id="text"),
    ],
)
def test_a_moment_that_says_nothing_is_refused(folders, moment, said):
    with pytest.raises(UsageError, match=said):
        sensitivity(*folders, first=moment, second={"moment": 1})


def test_one_moment_alone_is_refused(folders):
    with pytest.raises(UsageError, match="both moments or none"):
        sensitivity(*folders, first={"moment": 1})


def test_the_prepared_folder_is_read_only(folders):
    """Explaining writes nothing."""
    before = sorted(folders[0].rglob("*"))

    explain(*folders, QUERY, "item-9")

    assert sorted(folders[0].rglob("*")) == before
    PreparedData(folders[1], every_kind.config(epochs=1))

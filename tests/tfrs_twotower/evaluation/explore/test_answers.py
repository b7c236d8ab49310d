import pytest

from tests.tfrs_twotower.evaluation.explore.conftest import CONFIG, make_version
from tfrs_twotower.evaluation.explore import answers
from tfrs_twotower.evaluation.explore.answers import Move, Recommended, Selection


def test_a_known_user_is_asked_with_all_that_is_known(version):
    selection = answers.known_selection(version, "u1")

    assert answers.query_of(version, selection) == {
        "user": "u1",
        "city": "Rome",
        "history": ["a"],
        "clock": None,
        "device": None,
    }
    assert answers.excluded(version, selection) == ["a", "b"]


def test_an_unknown_user_has_an_id_alone(version):
    assert answers.known_selection(version, "nobody") == Selection("nobody")


def test_recommendations_with_title_score_and_why(version):
    found = answers.recommend(version, Selection(history=("c", "a"), k=2))

    assert [(one.rank, one.candidate_id, one.title) for one in found] == [
        (1, "b", "Green tea"),
        (2, "d", "d"),
    ]
    first = found[0]
    # The mean of (0, 1) and (1, 0), times (0.8, 0.6).
    assert first.score == pytest.approx(0.7)
    assert [title for title, _ in first.nearest] == ["Red Tea", "Milk"]
    assert [value for _, value in first.nearest] == pytest.approx([0.8, 0.6])
    assert first.contributions == [("history", pytest.approx(0.7))]


def test_what_features_add_is_the_score_less_that_without_them(version):
    query = {"user": "u1", "city": "Rome", "history": ["e"], "device": "phone"}

    [adds] = answers.contributions(version, query, ["a"])

    # (1, 0) times (-1, 0), the city's share; user and device change nothing and are left out.
    assert adds == [("history", pytest.approx(-1.0)), ("city", pytest.approx(0.25))]


def test_nothing_known_explains_nothing(version):
    found = answers.recommend(version, Selection(k=1))

    assert found[0].nearest == []
    assert found[0].contributions == []


def test_what_was_had_is_excluded_unless_repeats_are_wanted(version):
    left_out = answers.recommend(version, Selection(history=("a",), k=1))
    repeated = answers.recommend(version, Selection(history=("a",), exclude_known=False, k=1))

    assert [one.candidate_id for one in left_out + repeated] == ["b", "a"]


@pytest.mark.parametrize(("asked", "given"), [(0, 1), (7, 7), (10_000, answers.MAX_K)])
def test_the_cost_of_an_answer_is_bounded(version, asked, given):
    answers.recommend(version, Selection(history=("a",) * 5000, k=asked))

    [(queries, k, _, _)] = version.recommender.asked
    assert k == given
    assert len(queries[0]["history"]) == answers.MAX_HISTORY


def test_rules_are_handed_on(version):
    answers.recommend(version, Selection(rules={"filter_kinds_any": ["tea"]}))

    assert version.recommender.asked[0][3] == {"filter_kinds_any": ["tea"]}


def test_a_version_is_not_asked_for_features_that_it_lacks():
    plain = make_version(config=CONFIG.replace("    device: {kind: categorical}\n", ""))

    assert "device" not in answers.query_of(plain, Selection(values={"device": "phone"}))


def test_a_model_without_history_is_compared_with_the_known_positives():
    plain = make_version(config=CONFIG.replace("    history: {kind: history, length: 3}\n", ""))

    selection = answers.known_selection(plain, "u1")

    assert selection.history == ("a", "b")
    assert "history" not in answers.query_of(plain, selection)


def recommended(*ids):
    return [Recommended(rank, 0, name, name, 0.0, [], []) for rank, name in enumerate(ids, 1)]


def test_moves_by_the_later_rank_then_those_that_are_gone():
    assert answers.moves(recommended("a", "b", "c"), recommended("c", "a", "x")) == [
        Move("c", "c", 3, 1),
        Move("a", "a", 1, 2),
        Move("x", "x", None, 3),
        Move("b", "b", 2, None),
    ]

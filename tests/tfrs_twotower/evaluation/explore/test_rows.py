import pytest

from tfrs_twotower.evaluation.explore.answers import Move, Selection, recommend
from tfrs_twotower.evaluation.explore.rows import moved, recommended_row


def test_a_recommendation_tells_why(version):
    [first] = recommend(version, Selection(history=("a",), values={"city": "Rome"}, k=1))

    assert recommended_row(version, first) == {
        "key": "b",
        "title": "Green tea",
        "detail": "tea, green · 2",
        "rank": "1",
        "why": "like Red Tea 0.80",
        "adds": "history +0.80, city +0.25",
        "value": "1.050",
        "share": pytest.approx(1.05),
    }


@pytest.mark.parametrize(
    ("before", "after", "badge"),
    [(3, 1, "▲ 2"), (1, 2, "▼ 1"), (None, 4, "new"), (2, None, "gone"), (5, 5, None)],
)
def test_moves_are_badges(before, after, badge):
    assert moved(Move("a", "a", before, after), is_after=True).get("badge") == badge


def test_the_earlier_list_tells_only_what_goes():
    assert moved(Move("a", "a", 3, 1), is_after=False) == {}
    assert moved(Move("a", "a", 3, None), is_after=False)["badge"] == "gone"

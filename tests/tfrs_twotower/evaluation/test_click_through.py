"""Click-through, counted by hand."""

import pandas as pd
import pytest

from tfrs_twotower.evaluation.click_through import click_through

SHOWN = ["query_id", "candidate_id", "time_s", "version", "label", "rank"]
CLICKED = ["query_id", "candidate_id", "time_s"]


def joined(shown, clicks, within_s=10):
    impressions = pd.DataFrame(shown, columns=SHOWN).assign(model="retrieval")
    return click_through(impressions, pd.DataFrame(clicks, columns=CLICKED), within_s=within_s)


def test_clicks_are_due_to_the_last_impression_before_them():
    found = joined(
        [
            ("u", "a", 100, 1, "stable", 1),
            ("u", "a", 105, 2, "canary", 1),
            ("u", "b", 105, 2, "canary", 2),
            ("v", "a", 106, 2, "canary", 1),
        ],
        [("u", "a", 106), ("u", "a", 107), ("u", "b", 104), ("v", "b", 107)],
    )

    by_arm = found.by_arm.set_index("version")
    assert by_arm["impressions"].to_dict() == {1: 1, 2: 3}
    # The first impression of `a` is superseded; two clicks on one impression count once.
    assert by_arm["clicks"].to_dict() == {1: 0, 2: 1}
    assert by_arm["label"].to_dict() == {1: "stable", 2: "canary"}
    # `b` was clicked before it was shown to u, and was never shown to v.
    assert (found.num_clicks, found.num_unshown) == (4, 2)


@pytest.mark.parametrize(
    ("second", "clicks"),
    [(99, 0), (100, 1), (110, 1), (111, 0)],
)
def test_a_click_is_due_for_so_many_seconds(second, clicks):
    found = joined([("u", "a", 100, 1, "", 1)], [("u", "a", second)])

    assert found.by_arm["clicks"].tolist() == [clicks]


def test_rates_are_by_rank_with_intervals_of_wilson():
    shown = [(f"u{n}", "a", 100, 1, "", 1 + n % 2) for n in range(20)]
    found = joined(shown, [(f"u{n}", "a", 101) for n in (0, 2, 4, 6, 8)])

    first, second = found.by_rank.to_dict("records")
    assert (first["rank"], first["impressions"], first["clicks"], first["rate"]) == (1, 10, 5, 0.5)
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.96, n = 10.
    assert first["low"] == pytest.approx(0.2366, abs=1e-4)
    assert first["high"] == pytest.approx(0.7634, abs=1e-4)
    assert (second["rank"], second["clicks"], second["low"]) == (2, 0, 0.0)
    assert second["high"] == pytest.approx(3.8415 / 13.8415, abs=1e-4)


def test_nothing_clicked_is_no_error():
    found = joined([("u", "a", 100, 1, "", 1)], [])

    assert found.by_arm["rate"].tolist() == [0.0]

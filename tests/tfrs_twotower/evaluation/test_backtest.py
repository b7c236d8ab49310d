"""Which policy of retraining is worth its work, on recalls worked out by hand."""

import json
from datetime import date

import numpy as np
import pytest

from tfrs_twotower.cli.evaluation_tables import print_backtest
from tfrs_twotower.evaluation.backtest import Backtest, Served, Step, by_work, gain, recommend
from tfrs_twotower.evaluation.report import write_backtest

USERS = np.arange(100)
LOW = np.tile([0.0, 1.0], 50)  # A mean of 0.5.
HIGH = np.maximum(LOW, np.arange(100) < 40)  # One more hit for every second of 40 users: 0.7.
# As high on the whole, but better for some and worse for others.
AS_HIGH = np.roll(HIGH, 1)


def test_a_gain_is_the_mean_of_paired_differences():
    found = gain({"a": LOW, "b": HIGH}, "b", "a", USERS, seed=1)

    assert found.mean == pytest.approx(0.2)
    # The deviation of one difference is 0.4, that of the mean 0.04: the interval is 1.96 of it.
    assert found.interval.low == pytest.approx(0.2 - 0.0784, abs=0.02)
    assert found.interval.high == pytest.approx(0.2 + 0.0784, abs=0.02)
    assert found.is_beyond_chance
    assert not gain({"a": LOW, "b": HIGH}, "a", "b", USERS, seed=1).is_beyond_chance


def test_queries_of_one_user_count_once_for_the_interval():
    recalls = {"a": np.repeat(LOW[:10], 10), "b": np.repeat(HIGH[:10], 10)}

    many = gain(recalls, "b", "a", USERS, seed=1)
    few = gain(recalls, "b", "a", np.repeat(np.arange(10), 10), seed=1)

    assert few.mean == many.mean == 0.5
    assert few.interval.low < many.interval.low


def test_the_least_work_comes_first_and_equal_work_as_it_stands():
    assert by_work({"cold": 9, "never": 0, "warm": 2, "refresh": 0}) == [
        *("never", "refresh", "warm", "cold")
    ]


def test_work_is_worth_a_gain_beyond_chance():
    recalls = {"never": LOW, "warm": HIGH, "cold": AS_HIGH}

    found = recommend(recalls, USERS, {"never": 0, "warm": 2, "cold": 9}, seed=1)

    assert found.policy == "warm"
    assert found.gain is not None
    assert (found.gain.over, found.gain.mean) == ("never", pytest.approx(0.2))
    assert found.forgone is not None
    assert found.forgone.policy == "cold"
    assert found.reason.startswith("+0.2000 (95 % +0.1")
    assert "over never; cold gains nothing beyond chance: +0.0000" in found.reason


def test_without_a_gain_the_least_work_is_recommended():
    recalls = {"cold": AS_HIGH, "never": HIGH}

    found = recommend(recalls, USERS, {"cold": 9, "never": 0}, seed=1)

    assert (found.policy, found.gain) == ("never", None)
    assert found.reason.startswith("cold gains nothing beyond chance")


def test_the_most_work_is_recommended_where_it_alone_gains():
    recalls = {"never": LOW, "warm": LOW, "cold": HIGH}

    found = recommend(recalls, USERS, {"never": 0, "warm": 2, "cold": 9}, seed=1)

    assert (found.policy, found.forgone) == ("cold", None)


def test_one_policy_needs_no_reason():
    assert recommend({"never": LOW}, USERS, {"never": 0}, seed=1).reason == "the only policy"


@pytest.fixture
def found() -> Backtest:
    """Two steps of one and three queries."""

    def served(action: str, *recalls: float, work: int = 0) -> Served:
        return Served(action, "", work, 6.0 * work, np.array(recalls))

    first = {"never": served("start", 1.0), "cold": served("start", 1.0)}
    second = {
        "never": served("keep", 0.0, 0.0, 1.0),
        "cold": served("promote", 1.0, 0.5, 1.0, work=20),
    }
    steps = [
        Step(date(2024, 1, 1), np.array(["u1"]), 1, 0, first),
        Step(date(2024, 1, 8), np.array(["u1", "u2", "u3"]), 4, 2, second),
    ]
    return Backtest(k=5, step_days=7, steps=steps, num_without_time=3, seed=1)


def test_recall_is_a_mean_over_the_queries_of_all_steps(found):
    told = found.as_dict()

    assert told["policies"]["never"]["recall"] == 0.5
    assert told["policies"]["cold"]["recall"] == 3.5 / 4
    assert told["policies"]["cold"]["over_first"]["mean"] == 1.5 / 4
    assert told["steps"][1]["policies"]["cold"] == {
        "recall": pytest.approx(2.5 / 3), "action": "promote", "reason": ""
    }  # fmt: skip
    assert told["minutes_a_step"] == {"never": 0.0, "cold": 1.0}
    np.testing.assert_array_equal(found.users, [0, 0, 1, 2])
    assert found.to_frame().loc["all"].tolist() == [0.5, 3.5 / 4]


def test_it_is_printed_and_written_whole(found, tmp_path, capsys):
    pytest.importorskip("panel")  # Loaded, it adds to every page what only its server has.
    print_backtest(found.as_dict())
    page = write_backtest(found, tmp_path)

    printed = capsys.readouterr().out
    assert "0.8333*" in printed
    assert "recommended: never" in printed
    assert "3 interactions" in printed
    assert json.loads((tmp_path / "backtest.json").read_text())["num_queries"] == 4
    text = page.read_text()
    assert "2024-01-08" in text
    assert "<script src=" not in text

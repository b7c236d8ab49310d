"""When policies train, and where the steps of a replay begin."""

from datetime import date

import pytest

from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.policies import (
    DEFAULT_POLICIES,
    Policy,
    Steps,
    parse_day,
    parse_policies,
    parse_step,
    seconds_of,
)


def test_names_say_when_to_train_and_from_what():
    assert parse_policies("never, refresh,cold,warm-7") == (
        Policy("never", None, 1, refreshes=False),
        Policy("refresh", None, 1, refreshes=True),
        Policy("cold", "cold", 1, refreshes=True),
        Policy("warm-7", "warm", 7, refreshes=True),
    )
    assert [policy.name for policy in parse_policies(DEFAULT_POLICIES)][:2] == ["never", "refresh"]


@pytest.mark.parametrize(
    ("name", "steps"),
    [("never", []), ("refresh", []), ("cold", [1, 2, 3, 4, 5, 6]), ("warm-3", [3, 6])],
)
def test_nobody_trains_at_the_first_moment(name, steps):
    [policy] = parse_policies(name)

    assert [step for step in range(7) if policy.trains_at(step)] == steps


@pytest.mark.parametrize("text", ["daily", "cold-0", "cold-", "warm,warm", "never-2", ""])
def test_other_names_are_refused(text):
    with pytest.raises(UsageError):
        parse_policies(text)


def test_steps_follow_one_another():
    steps = Steps(date(2024, 2, 28), days=2, count=2)

    assert steps.moments == [date(2024, 2, 28), date(2024, 3, 1), date(2024, 3, 3)]


def test_the_last_steps_end_with_the_day_of_the_last_event():
    last_s = seconds_of(date(2024, 3, 10)) + 5

    steps = Steps.last(last_s, days=7, count=1)

    assert steps.moments == [date(2024, 3, 4), date(2024, 3, 11)]


def test_a_day_begins_at_midnight_utc():
    assert seconds_of(date(1970, 1, 3)) == 2 * 86_400


@pytest.mark.parametrize("text", ["1", "0d", "12h", "-1d", "d"])
def test_a_step_is_of_whole_days(text):
    assert parse_step("30d") == 30
    with pytest.raises(UsageError, match="whole days"):
        parse_step(text)


def test_a_start_is_a_day():
    assert parse_day("2024-03-01") == date(2024, 3, 1)
    with pytest.raises(UsageError, match="expected a day"):
        parse_day("1 March")

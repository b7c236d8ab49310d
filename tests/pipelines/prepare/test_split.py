"""Splits, against arithmetic done by hand."""

from datetime import date

import numpy as np
import pytest

from pipelines.prepare.split import (
    IN_GAP,
    NEVER,
    TEST,
    TRAIN,
    VALIDATION,
    Cutoffs,
    assign_splits,
    cutoffs_by_date,
    cutoffs_by_time,
    histogram,
)
from tfrs_twotower.schema.split import Split


def assign(rule, queries, timestamps=None, given=None, cutoffs=(NEVER, NEVER)):
    size = len(queries)
    return assign_splits(
        rule,
        Cutoffs(*cutoffs),
        timestamps=np.zeros(size, np.int64) if timestamps is None else np.array(timestamps),
        queries=np.array(queries),
        pair_hashes=np.arange(size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15),
        given=given,
    ).tolist()


def test_quantiles_count_events_and_keep_a_second_together():
    # Ranks 8 and 9 of 10 are the two events at 50: validation is empty, both test.
    times = histogram(np.array([1, 2, 3, 4, 5, 6, 7, 8, 50, 50]))

    assert cutoffs_by_time(times, 0.1, 0.1) == (50, 50)


@pytest.mark.parametrize(
    ("validation", "test", "expected"),
    [
        pytest.param(0.2, 0.3, (15, 17), id="ranks-5-and-7"),
        pytest.param(0.0, 0.1, (19, 19), id="no-validation"),
        pytest.param(0.1, 0.0, (19, NEVER), id="no-test"),
        pytest.param(0.0, 0.0, (NEVER, NEVER), id="train-alone"),
    ],
)
def test_cutoffs_by_share(validation, test, expected):
    assert cutoffs_by_time(histogram(np.arange(10, 20)), validation, test) == expected


def test_no_event_has_no_cutoff():
    times = histogram(np.zeros(0, np.int64))

    assert cutoffs_by_time(times, 0.1, 0.1) == (NEVER, NEVER)


def test_days_begin_at_midnight_utc():
    assert cutoffs_by_date(date(1970, 1, 2), date(1970, 1, 3)) == (86400, 172800)


def test_an_event_at_a_cutoff_belongs_to_what_begins():
    splits = assign(Split(), [0, 0, 0], [9, 10, 20], cutoffs=(10, 20))

    assert splits == [TRAIN, VALIDATION, TEST]


@pytest.mark.parametrize("by", ["time", "dates"])
def test_events_less_than_the_gap_ahead_of_a_part_are_in_none(by):
    days = (
        {"validation_from": date(2024, 1, 1), "test_from": date(2024, 1, 2)}
        if by == "dates"
        else {}
    )

    splits = assign(
        Split(by=by, gap_s=3, **days),
        [0] * 8,
        [96, 97, 99, 100, 106, 107, 109, 110],
        cutoffs=(100, 110),
    )

    assert splits == [TRAIN, IN_GAP, IN_GAP, VALIDATION, VALIDATION, IN_GAP, IN_GAP, TEST]


def test_a_gap_longer_than_validation_reaches_into_train():
    splits = assign(Split(gap_s=15), [0] * 4, [84, 94, 95, 100], cutoffs=(100, 110))

    assert splits == [TRAIN, IN_GAP, IN_GAP, IN_GAP]


def test_without_a_test_part_nothing_is_ahead_of_it():
    assert assign(Split(gap_s=5), [0, 0], [10, 20], cutoffs=(20, NEVER)) == [TRAIN, VALIDATION]


def test_the_last_event_tests_and_the_one_before_validates():
    rule = Split(by="leave_last_out")

    # Queries with four, two, one and three events.
    splits = assign(rule, [0, 0, 0, 0, 3, 3, 5, 7, 7, 7])

    assert splits == [0, 0, 1, 2, 0, 0, 0, 0, 1, 2]


def test_the_last_share_of_each_query_tests_and_the_share_before_validates():
    rule = Split(by="temporal_user", validation=0.2, test=0.3)

    # Of 10 events floor(3.0) test and floor(2.0) validate, of 4 one tests and none validates.
    splits = assign(rule, [0] * 10 + [1] * 4 + [2] * 3)

    assert splits == [0] * 5 + [1] * 2 + [2] * 3 + [0, 0, 0, 2] + [0] * 3


def test_a_share_of_a_query_is_exact_where_binary_fractions_are_not():
    # 0.29 * 100 is 28.999... in floating point.
    splits = assign(Split(by="temporal_user", validation=0.0, test=0.29), [0] * 100)

    assert splits.count(TEST) == 29


def test_given_splits_are_kept_but_for_the_held_out_share_of_train():
    given = np.array([TRAIN] * 1000 + [VALIDATION] * 100 + [TEST] * 100, np.int8)

    splits = assign(Split(by="column", hold_out=0.3), [0] * 1200, given=given)

    # Binomial of 1,000 and 0.3: a standard deviation of 14.5.
    assert 225 <= splits[:1000].count(VALIDATION) <= 375
    assert splits[1000:] == [VALIDATION] * 100 + [TEST] * 100

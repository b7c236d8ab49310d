"""Histories, against a loop over events."""

import numpy as np
import pytest

from pipelines.prepare.histories import at_end, before_each, groups, leaving_out


def drop_padding(places):
    return [[place for place in row if place >= 0] for row in places.tolist()]


def test_a_history_holds_the_positives_before_the_event_oldest_first():
    queries = np.array([0, 0, 0, 0, 2, 2])
    is_positive = np.array([1, 0, 1, 1, 1, 1], bool)

    places = before_each(queries, groups(queries, np.arange(6)), is_positive, 2)

    # Positives are numbered 0 to 2 for query 0, 3 and 4 for query 2.
    assert drop_padding(places) == [[], [0], [0], [0, 1], [], [3]]
    assert places[2].tolist() == [0, -1]


def test_events_without_before_and_after_do_not_see_each_other():
    queries = np.array([0, 0, 0])
    moments = groups(queries, np.array([5, 5, 6]))

    places = before_each(queries, moments, np.ones(3, bool), 5)

    assert drop_padding(places) == [[], [], [0, 1]]


@pytest.mark.parametrize("length", [1, 3, 20])
def test_histories_equal_those_of_a_loop(length):
    chance = np.random.default_rng(1)
    queries = np.sort(chance.integers(0, 8, 200))
    times = chance.integers(0, 30, 200)
    order = np.lexsort((times, queries))
    times = times[order]
    is_positive = chance.random(200) < 0.6

    places = before_each(queries, groups(queries, times), is_positive, length)

    number = np.cumsum(is_positive) - 1
    for event in range(200):
        before = [
            int(number[other])
            for other in range(200)
            if queries[other] == queries[event]
            and times[other] < times[event]
            and is_positive[other]
        ]
        assert drop_padding(places)[event] == before[-length:]


def test_the_last_positives_of_each_query_those_without_event_included():
    queries = np.array([1, 1, 1, 3])
    is_positive = np.array([1, 1, 1, 0], bool)

    assert drop_padding(at_end(queries, is_positive, 5, 2)) == [[], [1, 2], [], [], []]


def test_leaving_out_skips_the_own_candidate_and_fills_up_from_behind():
    queries = np.array([0, 0, 0, 0])
    candidates = np.array([10, 11, 12, 13])
    hashes = np.array([3, 1, 2, 9], np.uint64)  # Order of the list: 11, 12, 10.
    is_train = np.array([1, 1, 1, 0], bool)

    listed, places = leaving_out(queries, candidates, hashes, is_train, is_train, 2)

    assert candidates[listed].tolist() == [11, 12, 10]
    found = [[int(candidates[listed][place]) for place in row] for row in drop_padding(places)]
    assert found == [[11, 12], [12, 10], [11, 10], [11, 12]]


def test_no_event_has_no_history():
    nothing = np.zeros(0, np.int64)

    assert before_each(nothing, groups(nothing), nothing.astype(bool), 4).shape == (0, 4)

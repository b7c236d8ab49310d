"""Aggregates before a moment, by hand and against a definition that goes through all events."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare.aggregates import NO_EVENTS, Events, Log, by_moment, events_of
from pipelines.prepare.validate import LABEL, TIMESTAMP_S, VALUE
from tests.pipelines.reference import aggregate as by_definition
from tfrs_twotower.schema.features import Aggregate

DAY = 86_400
MISSING = float("nan")


def make_events(*rows):
    """Events from rows of entity, second, label and value."""
    columns = zip(*rows, strict=True) if rows else ((),) * 4
    types = {"entity": np.int32, TIMESTAMP_S: np.int64, LABEL: np.int8, VALUE: np.float64}
    arrays = (np.array(c, t) for c, t in zip(columns, types.values(), strict=True))
    return events_of(pa.table(dict(zip(types, arrays, strict=True))), "entity")


def ask(events, what, days, *asked):
    """What is found for pairs of entity and second; None where missing."""
    entities, seconds = (np.array(values, np.int64) for values in zip(*asked, strict=True))
    found = Log(events).before(Aggregate(what=what, days=days), entities, seconds)
    assert found.dtype == np.float32
    return [None if math.isnan(value) else value for value in found.tolist()]


# Entity 0 has positives at days 10, 12 (two in one second) and 39, a negative at day 20, and values
# 4, missing, 2, 5 and 1; entity 7 has one positive at day 11, of value 9.
EVENTS = make_events(
    (0, 10 * DAY, 1, 4.0),
    (0, 12 * DAY, 1, MISSING),
    (0, 12 * DAY, 1, 2.0),
    (7, 11 * DAY, 1, 9.0),
    (0, 20 * DAY, 0, 5.0),
    (0, 39 * DAY, 1, 1.0),
)


@pytest.mark.parametrize(
    ("what", "days", "day", "expected"),
    [
        pytest.param("count", None, 40, 4, id="count-of-all"),
        pytest.param("count", 30, 40, 4, id="count-of-30-days"),
        pytest.param("count", 7, 40, 1, id="count-of-7-days"),
        pytest.param("count", 1, 40, 1, id="count-of-1-day"),
        pytest.param("count", 7, 21, 0, id="a-negative-is-not-counted"),
        pytest.param("count", None, 10, 0, id="the-first-event-knows-nothing-of-itself"),
        pytest.param("recency", None, 40, 1, id="recency-of-all"),
        pytest.param("recency", None, 21, 9, id="a-negative-is-not-the-last-positive"),
        pytest.param("recency", 7, 21, None, id="no-positive-in-7-days"),
        pytest.param("recency", None, 10, None, id="no-positive-before"),
        pytest.param("mean", None, 40, 3, id="mean-of-all-with-a-value"),
        pytest.param("mean", 30, 41, 8 / 3, id="mean-of-30-days"),
        pytest.param("mean", 7, 40, 1, id="mean-of-7-days"),
        pytest.param("mean", 1, 21, 5, id="a-negative-has-a-value-too"),
        pytest.param("mean", 1, 13, 2, id="a-missing-value-is-left-out"),
        pytest.param("mean", 1, 11, 4, id="another-entity-does-not-count"),
        pytest.param("mean", 1, 30, None, id="no-value-in-a-day"),
    ],
)
def test_an_aggregate_is_what_a_person_counts(what, days, day, expected):
    [found] = ask(EVENTS, what, days, (0, day * DAY))

    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("what", ["count", "recency", "mean"])
@pytest.mark.parametrize(
    ("age_s", "is_seen"),
    [
        pytest.param(0, False, id="the-same-second"),
        pytest.param(-1, False, id="a-second-later"),
        pytest.param(1, True, id="a-second-before"),
        pytest.param(DAY, True, id="as-old-as-the-window"),
        pytest.param(DAY + 1, False, id="a-second-too-old"),
    ],
)
def test_a_window_holds_its_first_second_and_not_the_moment(what, age_s, is_seen):
    moment = 5 * DAY
    events = make_events((3, moment - age_s, 1, 2.5))
    seen = {"count": 1, "recency": pytest.approx(age_s / DAY), "mean": 2.5}[what]
    nothing = {"count": 0}.get(what)

    assert ask(events, what, 1, (3, moment)) == [seen if is_seen else nothing]


def test_a_window_that_begins_before_all_times_is_that_of_all_events():
    events = make_events((0, 0, 1, 1.0), (1, 4_102_444_799, 1, 3.0))

    assert ask(events, "count", 36_525, (0, 10), (1, 4_102_444_800)) == [1, 1]


def test_an_entity_without_events_has_a_count_of_zero_and_nothing_else():
    asked = [(0, DAY), (5, DAY)]

    assert ask(NO_EVENTS, "count", 7, *asked) == [0, 0]
    assert ask(EVENTS, "recency", None, (5, 50 * DAY)) == [None]
    assert ask(NO_EVENTS, "mean", None, *asked) == [None, None]


def test_events_of_one_moment_and_kind_are_added_up():
    events = make_events(
        (1, 20, 1, 4.0), (0, 20, 0, 2.0), (1, 20, 1, MISSING), (1, 20, 0, 1.5), (1, 10, 1, 7.0)
    )
    is_train = np.array([True, True, True, False, True])

    sums, kinds, place = by_moment(events, is_train)

    rows = zip(*(array.tolist() for array in (*sums, kinds)), strict=True)
    # Entity, second, positives, events with a value, their sum, and the kind.
    assert list(rows) == [
        (0, 20, 0, 1, 2.0, True),
        (1, 10, 1, 1, 7.0, True),
        (1, 20, 0, 1, 1.5, False),
        (1, 20, 2, 1, 4.0, True),
    ]
    assert place.tolist() == [3, 0, 3, 2, 1]


def test_the_order_of_events_does_not_change_a_bit_of_their_sum():
    draw = np.random.default_rng(4)
    size = 1000
    values = draw.normal(size=size) * 10.0 ** draw.integers(-8, 8, size)
    zeros = np.zeros(size, int)
    events = Events(zeros, zeros, zeros, zeros + 1, values)

    sums = [by_moment(events.where(draw.permutation(size)), zeros).sums.sums for _ in range(5)]

    assert len({one.tobytes() for one in sums}) == 1


seconds = st.integers(0, 4 * DAY)
rows = st.tuples(
    st.integers(0, 3),
    seconds | st.sampled_from([DAY, 2 * DAY]),
    st.integers(0, 1),
    st.sampled_from([MISSING, -1.5, 0.0, 0.1, 3.0, 1e6]),
)


@given(
    st.lists(rows, max_size=40),
    st.lists(st.tuples(st.integers(0, 4), seconds), min_size=1, max_size=10),
    st.sampled_from(["count", "recency", "mean"]),
    st.sampled_from([None, 1, 2]),
    st.booleans(),
)
def test_every_aggregate_is_that_of_the_definition(listed, asked, what, days, is_added_up):
    # Each event's own moment is asked, too: there the ties are.
    asked = [*asked, *((entity, second) for entity, second, _, _ in listed)]

    events = make_events(*listed)
    if is_added_up and listed:
        # Events with and without a value, say, may be kept apart.
        events = by_moment(events, events.valued).sums
    found = ask(events, what, days, *asked)

    for value, (entity, second) in zip(found, asked, strict=True):
        own = [row[1:] for row in listed if row[0] == entity]
        expected = by_definition(own, second, what, days)
        assert value == (
            expected if expected is None else pytest.approx(expected, rel=1e-6, abs=1e-6)
        )


def test_neither_the_order_of_events_nor_other_entities_change_a_bit():
    draw = np.random.default_rng(3)
    size = 500
    events = Events(
        draw.integers(0, 9, size),
        draw.integers(0, 60, size),
        draw.integers(0, 2, size),
        np.ones(size, int),
        draw.normal(size=size),
    )
    own = events.where(events.entities == 4)
    entities, seconds = np.full(60, 4), np.arange(60)
    mean = Aggregate(what="mean", days=None)

    whole = Log(events.where(draw.permutation(size))).before(mean, entities, seconds)
    alone = Log(own).before(mean, entities, seconds)

    assert whole.tobytes() == alone.tobytes()

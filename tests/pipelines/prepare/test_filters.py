"""Filters, against loops over single events."""

import random

import numpy as np
import pyarrow as pa
import pytest

from pipelines.prepare.filters import (
    CONTRADICTED,
    DUPLICATE,
    RARE_CANDIDATE,
    RARE_QUERY,
    Pairs,
    contradicted,
    duplicated,
    filter_by_count,
    filter_by_query,
    find_core,
)
from pipelines.prepare.partitions import sort_events
from tests.pipelines.reference import core
from tfrs_twotower.schema.filters import Filters


def test_a_negative_gives_way_to_a_positive_of_its_pair_within_its_window_on_either_side():
    # query, candidate, second, label, window
    events = [
        (0, 0, 100, 1, 0),
        (0, 0, 90, 0, 10),  # a positive 10 s later
        (0, 0, 89, 0, 10),  # 11 s later: too far
        (0, 0, 110, 0, 10),  # 10 s before
        (0, 0, 111, 0, 10),  # 11 s before: too far
        (0, 0, 100, 0, 0),  # no window
        (0, 1, 100, 0, 10),  # another candidate
        (1, 0, 100, 0, 10),  # another query
        (0, 0, 2, 0, 2**31),  # a window that begins before all times
    ]

    is_out = contradicted(*(np.array(values) for values in zip(*events, strict=True)))

    assert np.flatnonzero(is_out).tolist() == [1, 3, 8]


@pytest.mark.parametrize(
    ("keep_last", "kept"),
    [pytest.param(False, [0, 1, 3, 4], id="first"), pytest.param(True, [1, 2, 3, 5], id="last")],
)
def test_one_event_of_each_query_candidate_and_label_stays(keep_last, kept):
    queries, candidates = np.array([0, 0, 0, 0, 1, 1]), np.array([7, 8, 7, 7, 7, 7])
    labels = np.array([1, 1, 1, 0, 1, 1])

    is_out = duplicated([queries, candidates, labels], keep_last=keep_last)

    assert np.flatnonzero(~is_out).tolist() == kept


# A view (1), a like (4) and another view of one pair; a like of another pair; a dislike.
PAIRS = pa.table(
    {
        "query": [0, 0, 0, 0, 0],
        "candidate_row": [3, 3, 3, 4, 3],
        "timestamp_s": [10, 20, 30, 40, 50],
        "label": [1, 1, 1, 1, 0],
        "weight": pa.array([1, 4, 1, 4, 2], pa.float32()),
    }
)


@pytest.mark.parametrize(
    ("duplicates", "times", "weights"),
    [
        pytest.param("first", [10, 40, 50], [1, 4, 2], id="first"),
        pytest.param("strongest", [20, 40, 50], [4, 4, 2], id="strongest"),
        pytest.param("sum", [30, 40, 50], [6, 4, 2], id="sum"),
    ],
)
def test_duplicates_are_merged_by_time_or_weight(duplicates, times, weights):
    kept, counts = filter_by_query(Filters(duplicates=duplicates), PAIRS)

    assert kept.column("timestamp_s").to_pylist() == times
    assert kept.column("weight").to_pylist() == weights
    assert counts == {DUPLICATE: 2}


def test_the_first_of_equally_strong_events_stays():
    kept, _ = filter_by_query(Filters(duplicates="strongest"), PAIRS.take([0, 2]))

    assert kept.column("timestamp_s").to_pylist() == [10]


def test_a_sum_stays_within_the_given_part():
    parts = pa.array([0, 0, 2, 0, 0], pa.int8())

    kept, _ = filter_by_query(Filters(duplicates="sum"), PAIRS.append_column("split", parts))

    rows = zip(*(kept.column(name).to_pylist() for name in ("split", "weight")), strict=True)
    assert sorted(rows) == [(0, 2.0), (0, 4.0), (0, 5.0), (2, 1.0)]


def test_nothing_is_merged_of_no_events():
    for duplicates in ("first", "strongest", "sum"):
        assert len(filter_by_query(Filters(duplicates=duplicates), PAIRS.slice(0, 0)).events) == 0


def test_negatives_give_way_before_duplicates_are_merged():
    events = pa.table(
        {
            "query": [0, 0, 0, 0],
            "candidate_row": [3, 3, 3, 4],
            "timestamp_s": [10, 20, 90, 90],
            "label": [0, 1, 0, 0],
            "weight": pa.array([1, 1, 1, 1], pa.float32()),
            "window_s": [15, 0, 15, 15],
        }
    )

    kept, counts = filter_by_query(Filters(duplicates="first"), events)

    # The negative at 10 is gone, so that at 90 is the first of its pair and label.
    assert kept.column("timestamp_s").to_pylist() == [20, 90, 90]
    assert kept.column_names == ["query", "candidate_row", "timestamp_s", "label", "weight"]
    assert counts == {CONTRADICTED: 1, DUPLICATE: 0}


@pytest.mark.parametrize("k_core", [False, True])
@pytest.mark.parametrize(
    ("seed", "min_per_query", "min_per_candidate"),
    # Of seed 0 one pass keeps pairs that the core does not have.
    [(0, 3, 3), (5, 3, 3), (5, 0, 4), (5, 5, 0)],
)
def test_minima_are_those_of_the_definition_for_any_cut_into_partitions(
    k_core, seed, min_per_query, min_per_candidate
):
    chance = random.Random(seed)
    pairs = [(chance.randrange(30), chance.randrange(40)) for _ in range(150)]
    filters = Filters(
        min_per_query=min_per_query, min_per_candidate=min_per_candidate, k_core=k_core
    )
    parts = [sorted(pair for pair in pairs if pair[0] % 4 == part) for part in range(4)]
    kept = core(pairs, min_per_query, min_per_candidate, repeat=k_core)
    assert 0 < len(kept) < len(pairs)

    is_kept = find_core(
        filters, lambda: [Pairs(*np.array(part, int).reshape(-1, 2).T) for part in parts], 40
    )

    found = []
    for part in parts:
        events = pa.table({"query": [q for q, _ in part], "candidate_row": [c for _, c in part]})
        events = events.append_column("label", pa.array(np.ones(len(part), int)))
        left, counts = filter_by_count(filters, events, is_kept)
        assert left.num_rows + counts[RARE_CANDIDATE] + counts[RARE_QUERY] == len(part)
        found += zip(*left.select(["query", "candidate_row"]).to_pydict().values(), strict=True)
    assert sorted(found) == sorted(kept)


def test_negatives_do_not_count_and_go_with_their_query():
    events = pa.table({"query": [0, 0, 0, 1], "candidate_row": [0, 1, 2, 0], "label": [1, 0, 0, 1]})

    kept, counts = filter_by_count(Filters(min_per_query=2), events, np.ones(3, bool))

    assert kept.num_rows == 0
    assert counts == {RARE_CANDIDATE: 0, RARE_QUERY: 4}


def test_no_event_is_filtered_to_no_event():
    names = ("query", "candidate_row", "label", "weight")
    nothing = pa.table({name: np.zeros(0, int) for name in names})

    assert filter_by_query(Filters(duplicates="last"), nothing).events.num_rows == 0
    kept = filter_by_count(Filters(min_per_query=2, k_core=True), nothing, np.ones(3, bool))
    assert kept.events.num_rows == 0


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [("split", [2, 0], [0, 2]), ("value", [None, 1.5], [1.5, None])],
)
def test_events_that_differ_in_one_thing_alone_have_one_order(name, values, expected):
    events = pa.table(
        {
            "query": [0, 0],
            "candidate_row": [1, 1],
            "timestamp_s": [5, 5],
            "label": [1, 1],
            "weight": [1.0, 1.0],
            name: values,
        }
    )

    sorted_either_way = [sort_events(part) for part in (events, events.take([1, 0]))]

    assert [table.column(name).to_pylist() for table in sorted_either_way] == [expected, expected]

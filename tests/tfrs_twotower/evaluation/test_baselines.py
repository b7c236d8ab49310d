"""Popularity, chance and foreign lists, ranked under the same rules as a model."""

import numpy as np
import pandas as pd
import pytest

from tfrs_twotower.evaluation import baselines
from tfrs_twotower.evaluation.lists import UNLISTED
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.schema import UsageError

CANDIDATES = np.array(["a", "b", "c", "d", "e"])


def pairs(*given: tuple[int, int]) -> Pairs:
    queries, rows = np.array(given, np.int64).reshape(-1, 2).T
    return Pairs(queries, rows)


def evaluation_set_of(
    num_queries: int, positives: Pairs, excluded: Pairs | None = None
) -> EvaluationSet:
    return EvaluationSet(
        features={},
        query_rows=np.arange(num_queries),
        positives=positives,
        excluded=excluded or pairs(),
        num_known=0,
    )


# --- sequential rules -----------------------------------------------------------------------


def events_of(*pasts: list[int], label: int = 1) -> dict[str, np.ndarray]:
    """Events of queries 0, 1, ... in their order."""
    return {
        "query_row": np.repeat(np.arange(len(pasts)), [len(past) for past in pasts]),
        "candidate_row": np.array([row for past in pasts for row in past], np.int64),
        "label": np.full(sum(map(len, pasts)), label),
    }


def test_sequential_rules_weigh_what_came_after_by_distance():
    # Rules from a: b 1, c 1/2, d 1; from b: c 1. Query 2 had a last.
    train = events_of([0, 1, 2], [0, 3], [4, 0])
    # From e: a 1.
    found = baselines.sequential_rules(
        evaluation_set_of(3, pairs((2, 1), (2, 2), (2, 3)), pairs((2, 0), (2, 4))), train, 3, 5, k=3
    )

    # b and d score 1, c 1/2: equal ones by id.
    assert found.ranks.tolist() == [1, 3, 2]
    assert found.top_rows[2].tolist() == [1, 3, 2]


def test_sequential_rules_count_the_last_event_of_a_query_most():
    # From a: c 1; from b: d 1. Query 2 had a and then b: d scores 1, c 1/2.
    train = events_of([0, 2], [1, 3], [0, 1])

    found = baselines.sequential_rules(
        evaluation_set_of(3, pairs((2, 2), (2, 3)), pairs((2, 0), (2, 1))), train, 3, 5, k=2
    )

    assert found.ranks.tolist() == [2, 1]


def test_sequential_rules_do_not_reach_from_query_to_query_nor_from_negatives():
    train = events_of([0], [1], [0])

    found = baselines.sequential_rules(evaluation_set_of(3, pairs((2, 1))), train, 3, 5, k=5)
    negative = baselines.sequential_rules(
        evaluation_set_of(1, pairs((0, 1))), events_of([0, 1], label=0), 1, 5, k=5
    )

    # Without a rule all score 0, and come by id.
    assert found.top_rows[2].tolist() == [0, 1, 2, 3, 4]
    assert negative.top_rows[0].tolist() == [0, 1, 2, 3, 4]


def test_sequential_rules_reach_ten_events_far():
    train = events_of(list(range(12)), [0])

    found = baselines.sequential_rules(
        evaluation_set_of(2, pairs((1, 10), (1, 11)), pairs((1, 0))), train, 2, 13, k=11
    )

    # Candidate 10 scores 1/10; candidates 11 and 12 score 0.
    assert found.ranks.tolist() == [10, 11]


# --- popularity -----------------------------------------------------------------------------


def test_popularity_ranks_by_count_and_equal_counts_by_id():
    counts = np.array([3, 9, 3, 0, 5])  # b, e, a, c, d

    found = baselines.popularity(evaluation_set_of(1, pairs((0, 0), (0, 2), (0, 3))), counts, k=5)

    assert found.ranks.tolist() == [3, 4, 5]
    assert found.top_rows.tolist() == [[1, 4, 0, 2, 3]]


def test_popularity_leaves_out_what_the_query_had():
    counts = np.array([3, 9, 3, 0, 5])

    found = baselines.popularity(
        evaluation_set_of(2, pairs((0, 0), (1, 0)), pairs((0, 1), (0, 4))), counts, k=2
    )

    assert found.ranks.tolist() == [1, 3]
    assert found.top_rows.tolist() == [[0, 2], [1, 4]]


def test_counts_that_differ_by_one_are_told_apart_however_large():
    counts = np.array([2**24, 2**24 + 1, 2**40, 2**40 + 1])  # float32 takes them for two.

    found = baselines.popularity(evaluation_set_of(1, pairs((0, 0))), counts, k=4)

    assert found.top_rows.tolist() == [[3, 2, 1, 0]]


# --- chance ---------------------------------------------------------------------------------


def test_chance_puts_a_candidate_anywhere_alike():
    everybody = pairs(*((query, query % 50) for query in range(2000)))

    ranks = baselines.chance(evaluation_set_of(2000, everybody), 50, seed=1, k=10).ranks

    # Uniform over 1..50: mean 25.5, standard deviation 14.4, of the mean 0.32 (candidates share
    # directions, hence the margin).
    assert ranks.mean() == pytest.approx(25.5, abs=2.5)
    assert np.mean(ranks <= 10) == pytest.approx(0.2, abs=0.05)


def test_chance_is_decided_by_its_seed():
    everybody = pairs(*((query, 3) for query in range(30)))

    first, again, other = (
        baselines.chance(evaluation_set_of(30, everybody), 50, seed=seed, k=10).ranks.tolist()
        for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


# --- what was popular last ------------------------------------------------------------------


def test_only_the_last_tenth_of_the_train_positives_counts_as_recent():
    # 20 positives at seconds 0..19 and one explicit negative: the last two positives count.
    train = {
        "label": np.array([1] * 20 + [0]),
        "timestamp_s": np.array([*range(20), 30]),
        "candidate_row": np.array([0] * 18 + [2, 1, 0]),
    }

    assert baselines.recent_counts(train, 4).tolist() == [0, 1, 1, 0]


def test_events_of_the_second_in_which_the_last_tenth_begins_count():
    train = {
        "label": np.ones(10, np.int64),
        "timestamp_s": np.array([1, 1, 1, 1, 1, 1, 5, 5, 5, 5]),
        "candidate_row": np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
    }

    assert baselines.recent_counts(train, 3).tolist() == [0, 2, 2]


# --- neighbours -----------------------------------------------------------------------------


def dense_knn(had, num_neighbours):
    """Scores by the definition, one candidate at a time."""
    lengths = np.sqrt(np.maximum(had.sum(0), 1))
    cosines = (had.T @ had) / np.outer(lengths, lengths)
    np.fill_diagonal(cosines, 0.0)
    for row in cosines:
        row[sorted(range(len(row)), key=lambda c: (-row[c], c))[num_neighbours:]] = 0.0
    return had @ cosines


@pytest.mark.parametrize("num_neighbours", [2, 100])
def test_neighbours_are_those_of_the_definition(monkeypatch, num_neighbours):
    monkeypatch.setattr(baselines, "NUM_NEIGHBOURS", num_neighbours)
    monkeypatch.setattr(baselines, "NEIGHBOUR_ELEMENTS", 7 * 3)
    had = (np.random.default_rng(1).random([12, 7]) < 0.4).astype(np.float64)
    everybody = pairs(*((query, query % 7) for query in range(12)))

    found = baselines.item_knn(evaluation_set_of(12, everybody), np.nonzero(had), 12, 7, k=7)

    scores = np.round(dense_knn(had, num_neighbours), 5)
    expected = [sorted(range(7), key=lambda c: (-row[c], c)) for row in scores]
    ranks = [order.index(query % 7) + 1 for query, order in enumerate(expected)]
    assert np.mean(found.ranks == ranks) > 0.9  # Equal in the fifth digit may differ beyond.


def test_a_query_without_a_past_gets_the_order_of_ids():
    known = (np.array([0, 0, 1]), np.array([1, 2, 2]))

    found = baselines.item_knn(evaluation_set_of(3, pairs((2, 1)), pairs()), known, 3, 4, k=4)

    assert found.ranks.tolist() == [2]
    assert found.top_rows[0].tolist() == [1, 2, 0, 3]


# --- lists from elsewhere -------------------------------------------------------------------


@pytest.fixture
def ranked(tmp_path):
    """Ranks two queries, ann and bob, by the lists of a file."""

    def of(lists, positives, excluded=None, query_ids=("ann", "bob"), k=3):
        table = pd.DataFrame({"query_id": list(lists), "candidate_ids": list(lists.values())})
        table.to_parquet(tmp_path / "lists.parquet")
        question = evaluation_set_of(len(query_ids), positives, excluded)
        return baselines.ranked_lists(
            tmp_path / "lists.parquet", question, np.array(query_ids), CANDIDATES, k
        )

    return of


def test_a_candidate_has_its_place_in_the_list(ranked):
    found = ranked({"bob": ["c", "a"], "ann": ["e", "b", "d"]}, pairs((0, 3), (0, 4), (1, 0)))

    assert found.ranks.tolist() == [3, 1, 2]
    assert found.top_rows.tolist() == [[4, 1, 3], [2, 0, -1]]


def test_a_candidate_that_a_list_does_not_hold_is_behind_any_k(ranked):
    found = ranked({"ann": ["a"]}, pairs((0, 1), (1, 0)))

    assert found.ranks.tolist() == [UNLISTED, UNLISTED]
    assert found.top_rows.tolist() == [[0, -1, -1], [-1, -1, -1]]


def test_what_is_not_eligible_takes_no_place(ranked):
    found = ranked(
        {"ann": ["a", "unknown", "b", "b", "c", "d"], "stranger": ["c"]},
        pairs((0, 3)),
        excluded=pairs((0, 0), (1, 3)),
    )

    assert found.ranks.tolist() == [3]  # b, c, d
    assert found.top_rows[0].tolist() == [1, 2, 3]


def test_lists_are_cut_at_k_and_ranks_are_not(ranked):
    found = ranked({"ann": ["e", "d", "c", "b"]}, pairs((0, 1)), k=2)

    assert found.ranks.tolist() == [4]
    assert found.top_rows[0].tolist() == [4, 3]


def test_an_empty_list_is_a_list(ranked):
    found = ranked({"ann": [], "bob": ["a"]}, pairs((0, 0), (1, 0)))

    assert found.ranks.tolist() == [UNLISTED, 1]


def test_one_list_serves_each_event_of_its_query(ranked):
    """With one query an event, a query's id stands several times."""
    found = ranked(
        {"ann": ["e", "b"], "bob": ["c"]},
        pairs((0, 1), (1, 4), (2, 2)),
        excluded=pairs((0, 4)),
        query_ids=("ann", "ann", "bob"),
    )

    assert found.ranks.tolist() == [1, 1, 1]
    assert found.top_rows.tolist() == [[1, -1, -1], [4, 1, -1], [2, -1, -1]]


@pytest.mark.parametrize("content", ["none", "text", "other-columns"])
def test_a_file_that_holds_no_lists_is_told(tmp_path, content):
    path = tmp_path / "lists.parquet"
    if content == "text":
        path.write_text("ann: a, b")
    elif content == "other-columns":
        pd.DataFrame({"query_id": ["ann"], "items": [["a"]]}).to_parquet(path)

    with pytest.raises(UsageError, match=r"cannot read ranked lists from .*lists\.parquet: expect"):
        baselines.ranked_lists(
            path, evaluation_set_of(1, pairs((0, 0))), np.array(["ann"]), CANDIDATES, 3
        )

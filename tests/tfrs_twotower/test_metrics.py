"""Ranking metrics against arithmetic by hand and a definition that walks through each list."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_twotower import metrics

# Query 0: two relevant candidates at ranks 1 and 4; query 1: one at rank 3; query 2: three.
QUERIES = np.array([0, 0, 1, 2, 2, 2])
RANKS = np.array([4, 1, 3, 2, 9, 3])


def test_recall_is_the_share_of_the_relevant_candidates_in_the_list():
    assert metrics.recall_at_k(QUERIES, RANKS, 3).tolist() == [1 / 2, 1.0, 2 / 3]
    assert metrics.recall_at_k(QUERIES, RANKS, 1).tolist() == [1 / 2, 0.0, 0.0]


def test_a_hit_is_any_relevant_candidate_in_the_list():
    assert metrics.hit_rate_at_k(QUERIES, RANKS, 2).tolist() == [1.0, 0.0, 1.0]


def test_ndcg_discounts_by_rank_and_compares_with_the_best_list():
    # Query 0: 1/log2(2) + 1/log2(5) = 1.430677; best: 1/log2(2) + 1/log2(3) = 1.630930.
    # Query 1: 1/log2(4) = 0.5; best: 1.
    # Query 2: 1/log2(3) + 1/log2(4) = 1.130930 (rank 9 is out); best: 1.630930 + 0.5.
    expected = [1.430677 / 1.630930, 0.5, 1.130930 / 2.130930]

    np.testing.assert_allclose(metrics.ndcg_at_k(QUERIES, RANKS, 5), expected, atol=1e-6)


def test_the_best_list_of_ndcg_holds_no_more_than_k_candidates():
    # Three relevant candidates, a list of two: both places filled is perfect.
    perfect = metrics.ndcg_at_k(np.array([0, 0, 0]), np.array([1, 2, 50]), 2)

    np.testing.assert_allclose(perfect, [1.0])


def test_mrr_is_one_over_the_rank_of_the_first_relevant_candidate():
    np.testing.assert_allclose(metrics.mrr(QUERIES, RANKS), [1.0, 1 / 3, 1 / 2])


def test_coverage_counts_each_candidate_once_and_no_empty_place():
    lists = np.array([[3, 1, 0], [1, 7, -1], [-1, -1, -1]])

    assert metrics.coverage_at_k(lists, corpus_size=8) == 4 / 8  # 0, 1, 3, 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("recall_at_3", [1 / 2, 1.0, 2 / 3]),
        ("hit_rate_at_2", [1.0, 0.0, 1.0]),
        ("ndcg_at_1", [1.0, 0.0, 0.0]),
        ("mrr", [1.0, 1 / 3, 1 / 2]),
        ("recall_at_10", [1.0, 1.0, 1.0]),
    ],
)
def test_a_name_means_the_metric_at_its_k(name, expected):
    np.testing.assert_allclose(metrics.by_name(name, QUERIES, RANKS), expected)


# --- against an independent definition ------------------------------------------------------


@st.composite
def rankings(draw: st.DrawFn) -> list[list[int]]:
    """Ranks of the relevant candidates of each query, at least one a query."""
    ranks = st.sets(st.integers(1, 30), min_size=1, max_size=8).map(sorted)
    return draw(st.lists(ranks, min_size=1, max_size=6))


def by_walking(name: str, ranks: list[int], k: int) -> float:
    """The metric of one query, place by place down a list of 30."""
    relevant = [place in ranks for place in range(1, 31)]
    listed = relevant[:k]
    if name == "recall":
        return sum(listed) / len(ranks)
    if name == "hit_rate":
        return float(any(listed))
    if name == "mrr":
        return 1 / (relevant.index(True) + 1)
    gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(listed) if hit)
    best = sorted(relevant, reverse=True)[:k]
    return gain / sum(1 / math.log2(place + 2) for place, hit in enumerate(best) if hit)


@settings(max_examples=100, deadline=None)
@given(rankings(), st.integers(1, 30), st.randoms(use_true_random=False))
def test_metrics_are_those_of_a_walk_down_each_list_in_whatever_order(ranked, k, random):
    pairs = [(query, rank) for query, ranks in enumerate(ranked) for rank in ranks]
    random.shuffle(pairs)
    queries, ranks = np.array(pairs, np.int64).T

    for name in ("recall", "hit_rate", "ndcg", "mrr"):
        full_name = name if name == "mrr" else f"{name}_at_{k}"
        expected = [by_walking(name, ranks_of_query, k) for ranks_of_query in ranked]
        np.testing.assert_allclose(metrics.by_name(full_name, queries, ranks), expected)

"""Ranking metrics against arithmetic by hand and a definition that walks through each list."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_twotower.evaluation import metrics

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


@settings(max_examples=100)
@given(rankings(), st.integers(1, 30), st.randoms(use_true_random=False))
def test_metrics_are_those_of_a_walk_down_each_list_in_whatever_order(ranked, k, random):
    pairs = [(query, rank) for query, ranks in enumerate(ranked) for rank in ranks]
    random.shuffle(pairs)
    queries, ranks = np.array(pairs, np.int64).T

    for name in ("recall", "hit_rate", "ndcg", "mrr"):
        full_name = name if name == "mrr" else f"{name}_at_{k}"
        expected = [by_walking(name, ranks_of_query, k) for ranks_of_query in ranked]
        np.testing.assert_allclose(metrics.by_name(full_name, queries, ranks), expected)


def test_precision_divides_by_the_length_of_the_list_it_asks_for():
    # Query 0 has ranks 1 and 4, query 1 rank 3, query 2 ranks 2, 3 and 9.
    assert metrics.precision_at_k(QUERIES, RANKS, 4).tolist() == [2 / 4, 1 / 4, 2 / 4]


def test_average_precision_is_the_mean_precision_at_each_relevant_candidate():
    # Query 0: (1/1 + 2/4) / 2; query 1: (1/3) / 1; query 2: (1/2 + 2/3 + 0) / 3, rank 9 is out.
    expected = [1.5 / 2, 1 / 3, (1 / 2 + 2 / 3) / 3]

    np.testing.assert_allclose(metrics.map_at_k(QUERIES, RANKS, 5), expected)


def test_mrr_at_k_is_zero_where_the_first_relevant_candidate_comes_after_k():
    np.testing.assert_allclose(metrics.mrr_at_k(QUERIES, RANKS, 2), [1.0, 0.0, 1 / 2])
    np.testing.assert_allclose(metrics.mrr_at_k(QUERIES, RANKS, 3), [1.0, 1 / 3, 1 / 2])
    # In floats 49 * (1 / 49) is below 1.
    np.testing.assert_allclose(metrics.mrr_at_k(np.array([0]), np.array([49]), 49), [1 / 49])


@settings(max_examples=30)
@given(rankings(), st.integers(1, 30))
def test_metrics_are_those_of_trec_eval(ranked, k):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    pairs = [(query, rank) for query, ranks in enumerate(ranked) for rank in ranks]
    queries, ranks = np.array(pairs, np.int64).T
    relevant = {str(q): {f"d{r}": 1 for r in ranks} for q, ranks in enumerate(ranked)}
    listed = {str(q): {f"d{r}": float(-r) for r in range(1, 31)} for q in range(len(ranked))}
    names = {
        f"recall_at_{k}": f"recall_{k}",
        f"precision_at_{k}": f"P_{k}",
        f"ndcg_at_{k}": f"ndcg_cut_{k}",
        f"map_at_{k}": f"map_cut_{k}",
        f"hit_rate_at_{k}": f"success_{k}",
        "mrr": "recip_rank",
    }
    wanted = {
        "recip_rank",
        *(f"{n}.{k}" for n in ("recall", "P", "ndcg_cut", "map_cut", "success")),
    }

    found = pytrec_eval.RelevanceEvaluator(relevant, wanted).evaluate(listed)

    for ours, theirs in names.items():
        expected = [found[str(query)][theirs] for query in range(len(ranked))]
        np.testing.assert_allclose(metrics.by_name(ours, queries, ranks), expected, atol=1e-6)


# --- of the lists themselves ----------------------------------------------------------------


def test_novelty_is_the_mean_self_information_of_the_list():
    # One added to each count: 1, 2, 5 of 8. -log2: 3, 2, 0.678.
    found = metrics.novelty_at_k(np.array([[0, 1], [2, -1], [-1, -1]]), np.array([0, 1, 4]))

    np.testing.assert_allclose(found, [2.5, 0.678072, np.nan], atol=1e-6)


def test_lists_twice_as_popular_as_what_was_chosen_have_a_ratio_of_two():
    counts = np.array([8, 4, 2])
    lists = np.array([[0, 1], [0, -1]])  # Means 6 and 8: 7.
    queries, chosen = np.array([0, 0, 1]), np.array([1, 2, 1])  # Means 3 and 4: 3.5.

    assert metrics.popularity_ratio_at_k(lists, counts, queries, chosen) == 2.0


def test_popularity_says_nothing_where_nothing_chosen_was_ever_met():
    ratio = metrics.popularity_ratio_at_k(
        np.array([[0]]), np.array([5, 0]), np.array([0]), np.array([1])
    )

    assert np.isnan(ratio)


def test_popularity_says_nothing_where_every_list_is_empty():
    ratio = metrics.popularity_ratio_at_k(
        np.array([[-1]]), np.array([5, 1]), np.array([0]), np.array([1])
    )

    assert np.isnan(ratio)


def test_diversity_is_one_less_the_mean_cosine_of_two_of_the_list():
    embeddings = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    lists = np.array([[0, 1, 2], [0, 3, -1], [1, -1, -1]])

    # 0 and 1: 0; 0 and 2: 0.6; 1 and 2: 0.8 -> mean 1.4 / 3. 0 and 3: -1. One alone: no pair.
    np.testing.assert_allclose(
        metrics.diversity_at_k(lists, embeddings), [1 - 1.4 / 3, 2.0, np.nan], atol=1e-6
    )


def test_overlap_counts_what_both_lists_hold_in_whatever_order():
    first = np.array([[1, 2, 3], [4, 5, -1], [-1, -1, -1], [7, 8, 9]])
    second = np.array([[3, 1, 9], [5, -1, -1], [-1, -1, -1], [9, 8, 7]])

    np.testing.assert_allclose(metrics.overlap_at_k(first, second, 3), [2 / 3, 1 / 2, np.nan, 1])
    np.testing.assert_allclose(metrics.overlap_at_k(first, second, 1), [0, 0, np.nan, 0])

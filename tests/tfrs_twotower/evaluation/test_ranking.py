"""Ranks over the whole corpus against sorting each row, ties, exclusions and chunks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfrs_twotower.evaluation import ranking
from tfrs_twotower.evaluation.ranking import Pairs, rank, rank_scores

NOTHING = Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64))


def pairs(*given: tuple[int, int]) -> Pairs:
    queries, rows = np.array(given, np.int64).reshape(-1, 2).T
    return Pairs(queries, rows)


def by_sorting(scores, positives, excluded, k):
    """Each row sorted by score, then by id; excluded candidates taken out of the list."""
    lists = []
    for query, row in enumerate(scores):
        out = set(excluded.candidate_rows[excluded.queries == query])
        order = sorted(range(len(row)), key=lambda candidate: (-row[candidate], candidate))
        lists.append([candidate for candidate in order if candidate not in out])
    ranks = [
        lists[q].index(c) + 1
        for q, c in zip(positives.queries, positives.candidate_rows, strict=True)
    ]
    return ranks, [(order + [-1] * k)[:k] for order in lists]


def scored(*rows: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings whose dot products are the given scores."""
    scores = np.array(rows, np.float32)
    return scores, np.eye(scores.shape[1], dtype=np.float32)


@pytest.mark.parametrize("name", ["_products", "_top"])
def test_rankings_of_all_shapes_and_lengths_share_a_graph(name):
    for size in (3, 5, 9):
        scores = np.eye(size, dtype=np.float32)
        rank(scores, scores, pairs((0, 0)), NOTHING, k=size - 1)

    assert getattr(ranking, name).experimental_get_tracing_count() == 1


def test_the_best_candidate_has_rank_one():
    queries, candidates = scored([0.1, 0.9, 0.5], [0.3, 0.2, 0.1])

    found = rank(queries, candidates, pairs((0, 1), (0, 0), (1, 2)), NOTHING, k=2)

    assert found.ranks.tolist() == [1, 3, 3]
    assert found.top_rows.tolist() == [[1, 2], [0, 1]]


def test_equal_scores_are_ordered_by_row():
    queries, candidates = scored([0.5, 0.7, 0.5, 0.5])

    found = rank(queries, candidates, pairs((0, 0), (0, 2), (0, 3)), NOTHING, k=4)

    assert found.ranks.tolist() == [2, 3, 4]
    assert found.top_rows.tolist() == [[1, 0, 2, 3]]


def test_a_corpus_whose_scores_are_all_equal_is_no_free_lunch():
    """A collapsed model must not put every relevant candidate first."""
    queries, candidates = scored([0.0, 0.0, 0.0])

    found = rank(queries, candidates, pairs((0, 2)), NOTHING, k=1)

    assert found.ranks.tolist() == [3]


def test_an_excluded_candidate_is_in_no_list_and_ahead_of_nobody():
    queries, candidates = scored([0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6])

    found = rank(queries, candidates, pairs((0, 3), (1, 3)), pairs((0, 0), (0, 2)), k=3)

    assert found.ranks.tolist() == [2, 4]
    assert found.top_rows.tolist() == [[1, 3, -1], [0, 1, 2]]


def test_lists_are_no_longer_than_the_corpus():
    queries, candidates = scored([0.1, 0.2])

    assert rank(queries, candidates, pairs((0, 0)), NOTHING, k=10).top_rows.tolist() == [[1, 0]]


def test_a_corpus_of_one_candidate_has_one_rank():
    found = rank(
        np.ones([2, 3], np.float32), -np.ones([1, 3], np.float32), pairs((1, 0)), NOTHING, k=5
    )

    assert found.ranks.tolist() == [1]
    assert found.top_rows.tolist() == [[0], [0]]


def test_negative_scores_are_ordered_like_others():
    queries, candidates = scored([-0.1, -0.9, -0.5])

    found = rank(queries, candidates, pairs((0, 1)), pairs((0, 0)), k=3)

    assert found.ranks.tolist() == [2]
    assert found.top_rows.tolist() == [[2, 1, -1]]


def test_ranks_stand_in_the_order_of_the_positives():
    queries, candidates = scored([0.1, 0.2, 0.3])

    forward = rank(queries, candidates, pairs((0, 0), (0, 1), (0, 2)), NOTHING, k=1).ranks
    backward = rank(queries, candidates, pairs((0, 2), (0, 1), (0, 0)), NOTHING, k=1).ranks

    assert forward.tolist() == [3, 2, 1]
    assert backward.tolist() == [1, 2, 3]


def test_queries_without_a_relevant_candidate_have_a_list_all_the_same():
    queries, candidates = scored([0.1, 0.2], [0.4, 0.3], [0.5, 0.6])

    found = rank(queries, candidates, pairs((2, 0)), NOTHING, k=1)

    assert found.ranks.tolist() == [2]
    assert found.top_rows.tolist() == [[1], [0], [1]]


def random_case(seed, *, num_queries=9, corpus_size=17):
    """Small whole numbers: many ties, and dot products that are exact in any order."""
    generator = np.random.default_rng(seed)
    queries = generator.integers(-2, 3, [num_queries, 4]).astype(np.float32)
    candidates = generator.integers(-2, 3, [corpus_size, 4]).astype(np.float32)
    kinds = generator.choice(3, [num_queries, corpus_size], p=[0.7, 0.2, 0.1])
    positives = Pairs(*np.argwhere(kinds == 1).T)
    excluded = Pairs(*np.argwhere(kinds == 2).T)
    return queries, candidates, positives, excluded


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 20))
def test_ranks_and_lists_are_those_of_sorting_each_row(seed, k):
    queries, candidates, positives, excluded = random_case(seed)

    found = rank(queries, candidates, positives, excluded, k=k)

    k = min(k, len(candidates))
    ranks, lists = by_sorting(queries @ candidates.T, positives, excluded, k)
    assert found.ranks.tolist() == ranks
    assert found.top_rows.tolist() == lists


@pytest.mark.parametrize("elements", [1, 17, 40, 17 * 8, 17 * 9], ids=lambda n: f"{n}-elements")
def test_the_size_of_the_chunks_changes_nothing(monkeypatch, elements):
    case = random_case(3)
    whole = rank(*case, k=5)
    monkeypatch.setattr(ranking, "CHUNK_ELEMENTS", elements)
    monkeypatch.setattr(ranking, "MIN_CHUNK_QUERIES", 1)

    chunked = rank(*case, k=5)

    np.testing.assert_array_equal(chunked.ranks, whole.ranks)
    np.testing.assert_array_equal(chunked.top_rows, whole.top_rows)


def test_the_order_of_the_queries_changes_nothing():
    queries, candidates, positives, excluded = random_case(4)
    found = rank(queries, candidates, positives, excluded, k=6)
    order = np.random.default_rng(0).permutation(len(queries))
    place = np.argsort(order)

    def moved(old: Pairs) -> tuple[Pairs, np.ndarray]:
        by_place = np.argsort(place[old.queries], kind="stable")
        return Pairs(place[old.queries][by_place], old.candidate_rows[by_place]), by_place

    new_positives, by_place = moved(positives)
    again = rank(queries[order], candidates, new_positives, moved(excluded)[0], k=6)

    np.testing.assert_array_equal(again.top_rows, found.top_rows[order])
    np.testing.assert_array_equal(again.ranks, found.ranks[by_place])


def test_pairs_of_a_range_of_queries_are_counted_from_its_start():
    given = pairs((0, 7), (1, 5), (1, 6), (4, 2))

    part = given.between(1, 4)

    assert part.queries.tolist() == [0, 0]
    assert part.candidate_rows.tolist() == [5, 6]


def test_ranks_without_lists_are_the_same():
    queries, candidates, positives, excluded = random_case(5)

    with_lists = rank(queries, candidates, positives, excluded, k=4)
    without = rank(queries, candidates, positives, excluded, k=0)

    np.testing.assert_array_equal(without.ranks, with_lists.ranks)
    assert without.top_rows.shape == (len(queries), 0)


def test_one_relevant_candidate_a_query_is_ranked_as_among_several():
    """That case takes another way through the code."""
    queries, candidates, _, excluded = random_case(6)
    hidden = set(zip(*excluded, strict=True))
    one = pairs(*((q, next(c for c in (3, 5, 7, 9) if (q, c) not in hidden)) for q in range(9)))

    found = rank(queries, candidates, one, excluded, k=1)

    assert found.ranks.tolist() == by_sorting(queries @ candidates.T, one, excluded, 1)[0]


@pytest.mark.parametrize("sorted_from", [1, 3, 100])
def test_positives_that_are_counted_and_that_are_sorted_for_have_the_same_ranks(
    monkeypatch, sorted_from
):
    monkeypatch.setattr(ranking, "SORTED_FROM", sorted_from)
    for seed in range(20):
        queries, candidates, positives, excluded = random_case(seed)

        found = rank(queries, candidates, positives, excluded, k=0)

        ranks, _ = by_sorting(queries @ candidates.T, positives, excluded, 0)
        assert found.ranks.tolist() == ranks


@pytest.mark.parametrize("num_positives", [5, 50])
def test_the_scores_of_a_query_are_not_copied_for_each_of_its_positives(num_positives):
    scores = np.random.default_rng(7).normal(size=[64, 5000]).astype(np.float32)
    rows = np.tile(np.arange(num_positives), 64)
    positives = Pairs(np.repeat(np.arange(64), num_positives), rows)

    tracemalloc.start()
    rank_scores(lambda _start, _end: scores, 64, 5000, positives, NOTHING, k=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < scores.nbytes / 4


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_only_listed_candidates_are_ranked(seed):
    queries, candidates, positives, _ = random_case(seed)
    generator = np.random.default_rng(seed + 1)
    is_listed = generator.random([len(queries), len(candidates)]) < 0.4
    is_listed[positives] = True
    listed = Pairs(*np.nonzero(is_listed))
    others = Pairs(*np.nonzero(~is_listed))

    found = rank(queries, candidates, positives, NOTHING, k=5, listed=listed)
    expected = rank(queries, candidates, positives, others, k=5)

    np.testing.assert_array_equal(found.ranks, expected.ranks)
    np.testing.assert_array_equal(found.top_rows, expected.top_rows)


def test_the_order_of_the_corpus_changes_nothing_where_scores_differ():
    generator = np.random.default_rng(8)
    queries = generator.normal(size=[40, 32]).astype(np.float32)
    candidates = generator.normal(size=[500, 32]).astype(np.float32)
    positives = Pairs(np.arange(40), generator.integers(0, 500, 40))
    order = generator.permutation(500)
    place = np.argsort(order)

    found = rank(queries, candidates, positives, NOTHING, k=10)
    moved = positives._replace(candidate_rows=place[positives.candidate_rows])
    again = rank(queries, candidates[order], moved, NOTHING, k=10)

    np.testing.assert_array_equal(again.ranks, found.ranks)
    np.testing.assert_array_equal(order[again.top_rows], found.top_rows)


def test_pairs_of_some_queries_are_counted_by_their_place_among_them():
    given = pairs((0, 7), (1, 5), (1, 6), (4, 2))

    part = given.of(np.array([1, 3, 4]))

    assert part.queries.tolist() == [0, 0, 2]
    assert part.candidate_rows.tolist() == [5, 6, 2]

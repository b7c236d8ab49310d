import numpy as np
import pytest

from tests.tfrs_twotower.evaluation.explore.conftest import PLANE, make_version
from tfrs_twotower.evaluation.explore import candidates
from tfrs_twotower.evaluation.explore.candidates import Popularity, SampledLists


def test_neighbours_by_cosine_without_the_candidate_itself(version):
    found = candidates.neighbours(version, 0, 3)

    assert [one.title for one in found] == ["Green tea", "Milk", "New <b>Wine</b>"]
    assert [one.similarity for one in found] == pytest.approx([0.8, 0.0, 0.0])


def test_equal_neighbours_come_by_row_also_where_they_are_cut(version):
    assert [one.row for one in candidates.neighbours(version, 0, 2)] == [1, 2]


def test_lengths_do_not_count(version):
    longer = make_version(embeddings=PLANE * np.arange(1, 7, dtype=np.float32)[:, None])

    found = candidates.neighbours(longer, 0, 3)

    assert [one.similarity for one in found] == pytest.approx([0.8, 0.0, 0.0])


def test_a_corpus_of_one_has_no_neighbours(version):
    alone = make_version(candidates=version.candidates[:1], embeddings=PLANE[:1])

    assert candidates.neighbours(alone, 0) == []


def test_popularity_by_rank_equal_ones_by_row(version):
    assert candidates.popularity(version, 2) == Popularity(2, 1, 6)
    assert candidates.popularity(version, 1) == Popularity(1, 3, 6)
    assert candidates.popularity(version, 5) == Popularity(0, 6, 6)


@pytest.mark.parametrize(("rank", "tenth"), [(1, 1), (100, 1), (101, 2), (901, 10), (1000, 10)])
def test_tenths_of_the_corpus(rank, tenth):
    assert Popularity(0, rank, 1000).tenth == tenth


def test_a_sample_is_spread_over_all_queries(version):
    assert candidates.sampled_ids(version, 2) == ["u1", "u30"]
    assert candidates.sampled_ids(version) == ["u1", "u2", "u30"]
    assert candidates.sampled_ids(make_version(queries=version.queries[:0])) == []


def test_sampled_users_are_asked_with_what_is_known_and_had(version):
    found = candidates.sampled_lists(version, ["u1", "u2"], k=2)

    # u1 had a and b and likes (1, 0); u2 had c and e and likes (-0.5, 0.5).
    assert found == SampledLists(["u1", "u2"], [["c", "f"], ["d", "b"]], 2)


def test_no_more_are_asked_for_than_there_are(version):
    assert candidates.sampled_lists(version, ["u1"], k=100).k == 6


def test_many_users_are_asked_in_several_requests(version):
    ids = ["u1"] * (candidates.AT_ONCE + 1)

    found = candidates.sampled_lists(version, ids, k=1)

    assert found.candidate_ids == [["c"]] * len(ids)
    assert [len(asked[0]) for asked in version.recommender.asked] == [candidates.AT_ONCE, 1]


def test_the_users_that_get_a_candidate_the_best_rank_first():
    lists = SampledLists(["u1", "u2", "u3"], [["a", "b"], ["b", "a"], ["c"]], 2)

    assert lists.ranks_of("b") == [("u2", 1), ("u1", 2)]
    assert lists.ranks_of("x") == []


def test_overlap_is_a_mean_over_users():
    before = SampledLists(["u1", "u2", "u3"], [["a", "b", "c"], ["a", "b"], []], 3)
    after = SampledLists(["u1", "u2", "u3"], [["b", "a", "x"], ["c"], []], 3)

    # 2 of 2, 0 of 2, and nothing against nothing.
    assert candidates.mean_overlap(before, after, at=2) == pytest.approx(2 / 3)


def test_without_users_nothing_moves():
    nobody = SampledLists([], [], 3)

    assert candidates.mean_overlap(nobody, nobody) == 1.0

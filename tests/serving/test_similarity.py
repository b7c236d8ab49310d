"""Ranking from stored vectors."""

import os
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.similarity import RankedOffer, SimilarityScorer
from tfrs_twotower.schema import UsageError, UserError

NOW_S = 1_700_000_000.0
# Of lengths 1, 5, 2 and 1: only directions count.
CANDIDATES = {"a": [1.0, 0.0], "b": [4.0, 3.0], "c": [0.0, 2.0], "d": [1.0, 0.0]}
USERS = {"east": [3.0, 0.0], "north": [0.0, 1.0]}


def write(folder, id_column, vectors, name="part-0.parquet", **columns):
    folder.mkdir(exist_ok=True)
    table = pa.table(
        {
            id_column: list(vectors),
            "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32())),
            **columns,
        }
    )
    pq.write_table(table, folder / name)


@pytest.fixture
def candidates_dir(tmp_path):
    write(tmp_path / "candidates", "candidate_id", CANDIDATES, title=["A", "B", "C", "D"])
    return tmp_path / "candidates"


@pytest.fixture
def users_dir(tmp_path):
    write(tmp_path / "users", "query_id", USERS, computed_at_s=[NOW_S - 50, NOW_S - 500])
    return tmp_path / "users"


@pytest.fixture
def scorer(candidates_dir, users_dir):
    return SimilarityScorer(
        candidates_dir,
        users_dir,
        user_ttl_s=100,
        fallback_ids=["z", "c", "a"],
        clock=lambda: NOW_S,
    )


def test_offers_are_ordered_by_cosine_then_id(scorer):
    ranked = scorer.rank("east", ["c", "d", "b", "a"])

    assert [offer.candidate_id for offer in ranked] == ["a", "d", "b", "c"]
    assert [offer.score for offer in ranked] == pytest.approx([1.0, 1.0, 0.8, 0.0])


def test_a_user_may_come_as_a_vector_of_any_length(scorer):
    ranked = scorer.rank([0.0, 10.0], ["a", "b", "c"])

    assert ranked == [
        RankedOffer("c", pytest.approx(1.0)),
        RankedOffer("b", pytest.approx(0.6)),
        RankedOffer("a", pytest.approx(0.0)),
    ]


def test_offers_without_a_vector_come_last_in_fallback_order(scorer):
    ranked = scorer.rank("east", ["y", "z", "c", "x"])

    assert ranked == [
        RankedOffer("c", pytest.approx(0.0)),
        RankedOffer("z", None),
        RankedOffer("y", None),
        RankedOffer("x", None),
    ]


@pytest.mark.parametrize("user", ["nobody", "north"], ids=["unknown", "vector too old"])
def test_without_a_user_vector_the_fallback_order_holds(scorer, user):
    ranked = scorer.rank(user, ["b", "a", "y", "c"])

    assert ranked == [RankedOffer(offer, None) for offer in ["c", "a", "b", "y"]]


def test_without_a_time_to_live_old_vectors_count(candidates_dir, users_dir):
    scorer = SimilarityScorer(candidates_dir, users_dir, clock=lambda: NOW_S)

    assert scorer.rank("north", ["c"])[0].score == pytest.approx(1.0)


def test_without_a_column_a_vector_is_as_old_as_its_file(candidates_dir, tmp_path):
    write(tmp_path / "users", "query_id", USERS)
    os.utime(tmp_path / "users" / "part-0.parquet", (NOW_S, NOW_S))

    def score_at(now_s):
        scorer = SimilarityScorer(
            candidates_dir, tmp_path / "users", user_ttl_s=100, clock=lambda: now_s
        )
        return scorer.rank("east", ["a"])[0].score

    assert score_at(NOW_S + 99) == pytest.approx(1.0)
    assert score_at(NOW_S + 100) == pytest.approx(1.0)  # Older than 100 s is too old, not 100 s.
    assert score_at(NOW_S + 101) is None


def test_an_offer_given_twice_counts_once(scorer):
    assert len(scorer.rank("east", ["a", "a", "x", "x"])) == 2


def test_a_limit_cuts_the_end_off(scorer):
    assert [offer.candidate_id for offer in scorer.rank("east", ["x", "c", "b"], limit=2)] == [
        "b",
        "c",
    ]


def test_no_offers_give_an_empty_answer(scorer):
    assert scorer.rank("east", []) == []


@pytest.mark.parametrize(
    "vector", [[1.0], [[1.0, 0.0]], [1.0, float("nan")]], ids=["short", "matrix", "not finite"]
)
def test_a_wrong_user_vector_is_refused(scorer, vector):
    with pytest.raises(UsageError, match="2 finite numbers"):
        scorer.rank(vector, ["a"])


def test_vectors_are_read_from_several_files(candidates_dir):
    write(candidates_dir, "candidate_id", {"e": [-1.0, 0.0]}, name="part-1.parquet")

    assert SimilarityScorer(candidates_dir).rank([1.0, 0.0], ["e"])[0].score == pytest.approx(-1.0)


def test_the_fixed_size_lists_of_an_export_are_read(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.float32([1, 0, 0, 1])), 2)
    table = pa.table({"candidate_id": ["a", "b"], "embedding": vectors})
    pq.write_table(table, tmp_path / "part-0.parquet")

    assert SimilarityScorer(tmp_path).rank([0.0, 1.0], ["a", "b"])[0].candidate_id == "b"


def test_a_reload_of_a_folder_of_versions_comes_to_the_newest(tmp_path):
    for version in ("9", "3"):
        write(tmp_path / version, "candidate_id", CANDIDATES)
    scorer = SimilarityScorer(tmp_path)
    mirrored = {name: [-first, second] for name, (first, second) in CANDIDATES.items()}
    write(tmp_path / "10", "candidate_id", {**mirrored, "new": [1.0, 0.0]})
    (tmp_path / "11").mkdir()  # Nothing is in it yet.
    write(tmp_path / "12.tmp", "candidate_id", CANDIDATES)  # Not published yet.
    before = scorer.rank([1.0, 0.0], ["b", "new"])
    scorer.reload()

    assert before == [RankedOffer("b", pytest.approx(0.8)), RankedOffer("new", None)]
    assert scorer.rank([1.0, 0.0], ["b", "new"]) == [
        RankedOffer("new", pytest.approx(1.0)),
        RankedOffer("b", pytest.approx(-0.8)),
    ]


def missing(folder):
    (folder / "part-0.parquet").unlink()


def no_parquet(folder):
    (folder / "part-0.parquet").write_bytes(b"nothing")


def other_column(folder):
    write(folder, "item_id", CANDIDATES)


def several_lengths(folder):
    write(folder, "candidate_id", {"a": [1.0, 0.0, 0.5], "b": [1.0]})


def lengths_by_file(folder):
    write(folder, "candidate_id", {"e": [1.0]}, name="part-1.parquet")


def twice(folder):
    write(folder, "candidate_id", {"a": [1.0, 0.0]}, name="part-1.parquet")


def not_finite(folder):
    write(folder, "candidate_id", {"a": [1.0, float("inf")]})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(missing, "has no Parquet file", id="no file"),
        pytest.param(no_parquet, "cannot read", id="not Parquet"),
        pytest.param(other_column, "has no column candidate_id", id="column"),
        pytest.param(several_lengths, "equally many numbers", id="lengths in a file"),
        pytest.param(lengths_by_file, "several lengths", id="lengths by file"),
        pytest.param(twice, "an id twice", id="twice"),
        pytest.param(not_finite, "not finite", id="not finite"),
    ],
)
def test_a_reload_that_fails_is_told_and_changes_nothing(candidates_dir, spoil, said):
    scorer = SimilarityScorer(candidates_dir)
    spoil(candidates_dir)

    with pytest.raises(UserError, match=said):
        scorer.reload()

    assert scorer.rank([1.0, 0.0], ["b"])[0].score == pytest.approx(0.8)


def test_towers_of_two_versions_are_refused(candidates_dir, tmp_path):
    write(tmp_path / "users", "query_id", {"east": [1.0, 0.0, 0.0]})

    with pytest.raises(UserError, match="vectors of 3 numbers, .* of 2"):
        SimilarityScorer(candidates_dir, tmp_path / "users")


def test_answers_during_reloads_are_of_one_version(tmp_path):
    """The two versions are opposites: a mixture of them would have equal signs."""
    folder = tmp_path / "candidates"
    versions = [{"a": [1.0], "b": [-1.0]}, {"a": [-1.0], "b": [1.0]}]
    write(folder, "candidate_id", versions[0])
    scorer = SimilarityScorer(folder)
    stopped = threading.Event()

    def reload_on_and_on():
        turn = 0
        while not stopped.is_set():
            turn += 1
            write(folder, "candidate_id", versions[turn % 2])
            scorer.reload()

    thread = threading.Thread(target=reload_on_and_on)
    thread.start()
    sums = {sum(offer.score for offer in scorer.rank([1.0], ["a", "b"])) for _ in range(2000)}
    stopped.set()
    thread.join()

    assert sums == {0.0}


def test_tensorflow_and_grpc_stay_out():
    code = "import sys, serving.similarity; print({'tensorflow', 'grpc'} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert output.stdout.strip() == "set()"

"""The test of the NCF paper on MovieLens 1M."""

import pandas as pd
import pytest

from tests.tfrs_twotower.datasets.originals import write_ncf
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import UserError


@pytest.fixture
def folder(tmp_path):
    write_dataset("ncf", tmp_path / "out", write_ncf(tmp_path / "source"))
    return tmp_path / "out"


def test_ids_are_those_of_the_paper(folder):
    """Users from 0; films by their first appearance: 30, 10, 40 become 0, 1, 2."""
    interactions = pd.read_parquet(folder / "interactions.parquet")
    candidates = pd.read_parquet(folder / "candidates.parquet")
    users = pd.read_parquet(folder / "queries.parquet")

    assert interactions["user_id"].tolist() == ["0", "0", "1", "0", "1"]
    assert interactions["item_id"].tolist() == ["0", "1", "0", "2", "1"]
    titles = dict(zip(candidates["item_id"], candidates["title"], strict=True))
    assert titles == {
        "0": "Alien (1979)",
        "1": "City of Lost Children, The (1995)",
        "2": "Heat (1995)",
    }
    assert users["user_id"].tolist() == ["0", "1"]


def test_the_given_item_tests_and_the_last_of_the_others_validates(folder):
    interactions = pd.read_parquet(folder / "interactions.parquet")

    # User 0 took items 0, 2, 1 in order of time, user 1 items 0, 1; item 1 is given for both.
    assert interactions["split"].tolist() == ["train", "test", "validation", "validation", "test"]


def test_given_lists_have_the_positive_first(folder):
    given = pd.read_parquet(folder / "given.parquet")

    assert given["query_id"].tolist() == ["0", "1"]
    assert given["candidate_ids"].map(list).tolist() == [["1", "2", "0"], ["1", "0", "2"]]


def test_negatives_of_other_ratings_are_refused(tmp_path):
    source = write_ncf(tmp_path / "source")
    (source / "tiny.test.negative").write_text("(0,7)\t1\n(1,1)\t0\n")

    with pytest.raises(UserError, match="does not belong to the ratings.dat"):
        write_dataset("ncf", tmp_path / "out", source)


@pytest.mark.slow
def test_the_real_files_agree_with_each_other(public_data, tmp_path):
    source = public_data / "ml-1m"
    counts = write_dataset("ncf", tmp_path / "out", source)
    interactions = pd.read_parquet(tmp_path / "out" / "interactions.parquet")
    given = pd.read_parquet(tmp_path / "out" / "given.parquet")
    published = pd.read_csv(
        source / "ncf_ml-1m.test.rating", sep="\t", names=["user", "item", "rating", "second"]
    )

    tests = interactions[interactions["split"] == "test"]
    ours = tests[["user_id", "item_id", "rating", "timestamp"]].astype(int).sort_values("user_id")
    assert counts["given"] == len(tests) == 6_040
    assert ours.to_numpy().tolist() == published.sort_values("user").to_numpy().tolist()
    assert set(given["candidate_ids"].map(len)) == {100}
    assert interactions["split"].value_counts()["validation"] == 6_040

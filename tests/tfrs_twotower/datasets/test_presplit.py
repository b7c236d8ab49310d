"""The formats of NGCF and SASRec."""

import gzip

import pandas as pd
import pytest

from tests.tfrs_twotower.datasets.originals import write_ngcf, write_sasrec
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import UserError


def test_ngcf_rows_carry_the_published_split(tmp_path):
    write_dataset("ngcf", tmp_path / "out", write_ngcf(tmp_path / "source"))

    interactions = pd.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert interactions.to_numpy().tolist() == [
        ["0", "3", "train"],
        ["0", "1", "train"],
        ["1", "2", "train"],
        ["0", "2", "test"],
        ["0", "9", "test"],
    ]


def test_every_item_of_either_part_is_a_candidate(tmp_path):
    counts = write_dataset("ngcf", tmp_path / "out", write_ngcf(tmp_path / "source"))

    candidates = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert sorted(candidates["item_id"]) == ["1", "2", "3", "9"]
    assert counts == {"interactions": 5, "candidates": 4, "queries": 2, "train": 3, "test": 2}


def test_sasrec_rows_are_numbered_within_the_user(tmp_path):
    write_dataset("sasrec", tmp_path / "out", write_sasrec(tmp_path / "source"))

    interactions = pd.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert interactions.to_numpy().tolist() == [
        ["5", "30", 0],
        ["5", "10", 1],
        ["6", "10", 0],
        ["5", "20", 2],
    ]


def test_a_sasrec_line_without_an_item_is_one_line_for_the_user(tmp_path):
    source = write_sasrec(tmp_path / "source")
    (source / "sasrec_tiny.txt").write_text("5 30\n5\n")

    with pytest.raises(UserError, match=r"sasrec_tiny\.txt is not the file that its name says"):
        write_dataset("sasrec", tmp_path / "out", source)


def test_a_file_with_a_line_for_each_user_and_attributes_beside_it(tmp_path):
    source = tmp_path / "Toys.txt.gz"
    source.write_bytes(gzip.compress(b"5 30 10 20\n6 10\n\n7 20 10\n"))
    (tmp_path / "Toys_item2attributes.json").write_text('{"10": [3, 1], "30": [], "99": [2]}')

    counts = write_dataset("sasrec", tmp_path / "out", source)

    interactions = pd.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert interactions.to_numpy().tolist() == [
        ["5", "30", 0],
        ["5", "10", 1],
        ["5", "20", 2],
        ["6", "10", 0],
        ["7", "20", 0],
        ["7", "10", 1],
    ]
    candidates = pd.read_parquet(tmp_path / "out" / "candidates.parquet")
    assert candidates.to_numpy().tolist() == [["30", ""], ["10", "3|1"], ["20", ""]]
    assert counts == {"interactions": 6, "candidates": 3, "queries": 3}


@pytest.mark.parametrize("text", ["[1, 2]", '{"10": 3}', '{"10": [3'])
def test_attributes_of_another_shape_are_one_line_for_the_user(tmp_path, text):
    (tmp_path / "Toys.txt").write_text("5 30 10\n")
    (tmp_path / "Toys_item2attributes.json").write_text(text)

    with pytest.raises(UserError, match=r"Toys_item2attributes\.json is not the file that"):
        write_dataset("sasrec", tmp_path / "out", tmp_path / "Toys.txt")


def test_the_real_toys_have_their_published_counts(public_data, tmp_path):
    source = public_data / "amazon" / "Toys_and_Games.txt.gz"

    counts = write_dataset("sasrec", tmp_path / "out", source)

    assert counts == {"interactions": 167_597, "candidates": 11_924, "queries": 19_412}
    attributes = pd.read_parquet(tmp_path / "out" / "candidates.parquet")["attributes"]
    assert (attributes != "").all()


def test_the_real_gowalla_has_its_published_counts(public_data, tmp_path):
    counts = write_dataset("ngcf", tmp_path / "out", public_data / "gowalla")

    assert counts == {
        "interactions": 1_027_370,
        "candidates": 40_981,
        "queries": 29_858,
        "train": 810_128,
        "test": 217_242,
    }


def test_the_real_sasrec_file_has_its_published_counts(public_data, tmp_path):
    counts = write_dataset("sasrec", tmp_path / "out", public_data / "ml-1m")

    assert counts == {"interactions": 999_611, "candidates": 3_416, "queries": 6_040}

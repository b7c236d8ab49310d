"""The first rows of a dataset folder's files."""

import gzip
import json

import pandas as pd
import pytest

from tfrs_twotower.datasets.heads import read_head
from tfrs_twotower.schema import UserError


def test_csv_values_stay_as_they_stand(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,rating\n007,\n,NA\n")

    rows = read_head(tmp_path, "interactions", 10).rows

    assert rows.to_dict("list") == {"user_id": ["007", ""], "rating": ["", "NA"]}


def test_broken_csv_lines_are_counted_and_left_out(tmp_path):
    (tmp_path / "interactions.csv").write_text("a,b,c\n1,2,3\n1\n1,2,3,4,5\n4,5,6\n")

    head = read_head(tmp_path, "interactions", 10)

    assert head.rows["a"].tolist() == ["1", "4"]
    assert head.num_unreadable == 2


def test_broken_json_lines_are_counted_and_left_out(tmp_path):
    lines = ['{"a": 1}', "{", "[1]", "", '{"a": 2, "b": "x"}']
    (tmp_path / "interactions.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))

    head = read_head(tmp_path, "interactions", 10)

    assert head.rows["a"].tolist() == [1, 2]
    assert head.num_unreadable == 2


def test_parquet_keeps_integers_beside_missing_ones(tmp_path):
    table = pd.DataFrame({"n": pd.array([1, None], "Int64"), "v": [[0.5], [1.5]]})
    table.to_parquet(tmp_path / "candidates.parquet")

    rows = read_head(tmp_path, "candidates", 10).rows

    assert rows["n"].tolist() == [1, pd.NA]
    assert [list(vector) for vector in rows["v"]] == [[0.5], [1.5]]


@pytest.mark.parametrize(
    ("max_rows", "is_whole"), [(3, False), (4, True), (9, True)], ids=["less", "all", "more"]
)
def test_no_more_rows_are_read_than_asked(tmp_path, max_rows, is_whole):
    for name, users in (("interactions-1.csv", "ab"), ("interactions-2.csv", "cd")):
        (tmp_path / name).write_text("user_id\n" + "\n".join(users) + "\n")

    head = read_head(tmp_path, "interactions", max_rows)

    assert head.rows["user_id"].tolist() == list("abcd")[:max_rows]
    assert head.is_whole == is_whole
    assert head.file_names == ("interactions-1.csv", "interactions-2.csv")


def test_files_of_different_formats_are_one_log(tmp_path):
    (tmp_path / "interactions-1.csv").write_text("user_id\na\n")
    (tmp_path / "interactions-2.jsonl").write_text(json.dumps({"user_id": "b"}))
    (tmp_path / "interactions.txt").write_text("not for us")

    assert read_head(tmp_path, "interactions", 10).rows["user_id"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("interactions.parquet", b"PAR0"),
        ("interactions.csv.gz", b"not packed"),
        ("interactions.jsonl.gz", gzip.compress(b'{"a": 1}' * 99)[:-9]),
    ],
    ids=["parquet", "csv.gz", "jsonl.gz"],
)
def test_an_unreadable_file_is_one_line_for_the_user(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=f"cannot read .*{name}") as caught:
        read_head(tmp_path, "interactions", 10)

    assert "\n" not in str(caught.value)


def test_no_file_is_no_head(tmp_path):
    assert read_head(tmp_path, "queries", 10) is None

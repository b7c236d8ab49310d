"""Candidates as a batch of Vertex AI Vector Search, by values worked by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrs_twotower.cli import main
from tfrs_twotower.publishing import vertex
from tfrs_twotower.publishing.vertex import lines, write_to_vertex
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.rules import Rules


def table(**columns):
    vectors = pa.array([0.6, -0.8, 0.1, 1e-7, 1.0, 0.0], pa.float32())
    embedding = pa.FixedSizeListArray.from_arrays(vectors, 2)
    return pa.table({"candidate_id": ["a", 'b"é', "c"], "embedding": embedding, **columns})


def test_a_line_of_a_candidate_has_its_id_and_the_shortest_text_of_its_numbers():
    assert list(lines(table(colour=["red", "blue", ""]), Rules())) == [
        '{"id": "a", "embedding": [0.6, -0.8]}',
        '{"id": "b\\"\\u00e9", "embedding": [0.1, 1e-7]}',
        '{"id": "c", "embedding": [1, 0]}',
    ]


@pytest.mark.parametrize("rows_a_batch", [2, 10])
def test_what_the_rules_read_is_restricts(monkeypatch, rows_a_batch):
    monkeypatch.setattr(vertex, "ROWS_A_BATCH", rows_a_batch)
    candidates = table(
        genres=[["Drama", "War"], [], ["War"]],
        year=[1995, None, 2003],
        in_stock=pa.array([1.0, 0.0, None], pa.float32()),
        price=pa.array([9.5, None, 0.1], pa.float32()),
        weight=[0.1, 0.2, 0.3],
        starts=[1_700_000_000, None, 1_700_000_001],
        ends=pa.array([None, 1_800_000_000.5, None], pa.float64()),
        shelf=["x", "y", "z"],
    )
    rules = Rules(
        filters=["genres", "year", "in_stock"],
        ranges=["year", "price", "weight"],
        available_from="starts",
        available_until="ends",
    )

    a, b, c = map(json.loads, lines(candidates, rules))

    assert a == {
        "id": "a",
        "embedding": [0.6, -0.8],
        "restricts": [
            {"namespace": "genres", "allow": ["Drama", "War"]},
            {"namespace": "year", "allow": ["1995"]},
            {"namespace": "in_stock", "allow": ["true"]},
        ],
        "numeric_restricts": [
            {"namespace": "year", "value_int": 1995},
            {"namespace": "price", "value_float": 9.5},
            {"namespace": "weight", "value_double": 0.1},
            {"namespace": "starts", "value_int": 1_700_000_000},
            {"namespace": "ends", "value_double": 2.0**53},
        ],
    }
    # What is missing is no restrict, but of availability, where it is no limit.
    assert b["restricts"] == [{"namespace": "in_stock", "allow": ["false"]}]
    assert b["numeric_restricts"] == [
        {"namespace": "weight", "value_double": 0.2},
        {"namespace": "starts", "value_int": -(2**53)},
        {"namespace": "ends", "value_double": 1_800_000_000.5},
    ]
    assert [one["namespace"] for one in c["restricts"]] == ["genres", "year"]
    assert np.float32(c["numeric_restricts"][1]["value_float"]) == np.float32(0.1)


def test_the_command_writes_the_batch_alone_and_replaces_it(exported_once, tmp_path, capsys):
    place = ["embeddings", "--models", str(exported_once), "--to", f"vertex:{tmp_path / 'batch'}"]
    assert main(place) == 0
    file = tmp_path / "batch/candidates.json"
    said = capsys.readouterr().out
    written = file.read_text(encoding="utf-8")
    file.write_text("an earlier one")
    assert main(place) == 0

    assert "".join(said.split()) == f"version1:20embeddingsof8in{file}"
    assert [*(tmp_path / "batch").iterdir()] == [file]
    assert file.read_text(encoding="utf-8") == written
    points = [json.loads(line) for line in written.splitlines()]
    stored = pq.read_table(exported_once / "candidates/1")
    assert [point["id"] for point in points] == stored["candidate_id"].to_pylist()
    np.testing.assert_array_equal(
        np.float32([point["embedding"] for point in points]),
        np.float32(stored["embedding"].to_pylist()),
    )


def test_a_write_that_fails_leaves_the_batch_before(exported_once, tmp_path, monkeypatch):
    write_to_vertex(exported_once, tmp_path)
    before = (tmp_path / "candidates.json").read_bytes()

    def fail(*_):
        yield "{}"
        raise KeyboardInterrupt

    monkeypatch.setattr(vertex, "lines", fail)
    with pytest.raises(KeyboardInterrupt):
        write_to_vertex(exported_once, tmp_path)
    assert (tmp_path / "candidates.json").read_bytes() == before

    monkeypatch.undo()
    write_to_vertex(exported_once, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["candidates.json"]


def test_other_files_which_would_be_imported_are_refused(exported_once, tmp_path):
    (tmp_path / "manifest.json").touch()

    with pytest.raises(UsageError, match=r"holds other files \(manifest.json\): name another"):
        write_to_vertex(exported_once, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]

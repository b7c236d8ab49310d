"""What is known of queries comes to the tables that ask for it."""

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that

from pipelines.io.tables import from_ipc, to_ipc
from pipelines.score import known_queries
from pipelines.score.known_queries import JoinKnown, find_known, open_stored
from tfrs_twotower.schema.models_layout import QUERY_KEY

ASKED = {
    "00000-00000": ["u5", "u1", "nobody", "u5"],
    "00000-00001": ["u1", "u8"],
    "00001-00000": ["nobody"],
}


@pytest.fixture
def folder(tmp_path):
    """Ten queries in row groups of three."""
    table = pa.table({"user": [f"u{n}" for n in range(10)], "age": list(range(10))})
    table = table.replace_schema_metadata({QUERY_KEY: "user"})
    pq.write_table(table, tmp_path / "part.parquet", row_group_size=3)
    return str(tmp_path)


@pytest.mark.parametrize("bucket_bytes", [1 << 20, 100])
def test_a_table_gets_what_is_known_of_its_queries_once_each(folder, monkeypatch, bucket_bytes):
    monkeypatch.setattr(known_queries, "BUCKET_BYTES", bucket_bytes)
    stored = open_stored(folder)
    assert len(stored.groups) == 4

    def check(joined):
        found = {
            name: (from_ipc(table)["user"].to_pylist(), from_ipc(known).to_pylist())
            for name, (table, known) in joined
        }
        ages = {
            name: sorted((row["user"], row["age"]) for row in known)
            for name, (_, known) in found.items()
        }
        assert {name: ids for name, (ids, _) in found.items()} == ASKED
        assert ages == {
            "00000-00000": [("u1", 1), ("u5", 5)],
            "00000-00001": [("u1", 1), ("u8", 8)],
            "00001-00000": [],
        }

    with beam.Pipeline() as pipeline:
        tables = [(name, to_ipc(pa.table({"user": ids}))) for name, ids in ASKED.items()]
        assert_that(pipeline | beam.Create(tables) | JoinKnown(stored), check)


def test_a_few_queries_are_found_without_a_job(folder):
    found = find_known(open_stored(folder), pa.array(["u9", "nobody", "u0", "u9"]))

    assert found.to_pylist() == [{"user": "u0", "age": 0}, {"user": "u9", "age": 9}]

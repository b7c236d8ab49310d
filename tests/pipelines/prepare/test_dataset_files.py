"""Files that cannot be read are refused with their name and the cause, before a job starts."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare.dataset_files import open_dataset
from tfrs_twotower.schema import UserError, parse_config

CONFIG = parse_config(
    """
columns: {query_id: user, candidate_id: item}
features:
  query: {user: {kind: id}}
  candidate: {item: {kind: id}}
split: {by: random}
""",
    "twotower.yaml",
)
PACKED = gzip.compress(b"user,item\n" + b"a,b\n" * 5000)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        pytest.param(
            "interactions.csv.gz",
            PACKED[:20] + bytes(255 - byte for byte in PACKED[20:30]) + PACKED[30:],
            "cannot read .*interactions.csv.gz",
            id="damaged-gzip",
        ),
        pytest.param(
            "interactions.csv",
            b"\nuser,item\na,b\n",
            "interactions.csv begins with a blank line",
            id="blank-first-line",
        ),
        pytest.param(
            "interactions.jsonl",
            b'{"user": {"id": "0", "tags": ["x"]}, "item": "b"}\n',
            "`user`, named by `columns.query_id`, holds objects, not values",
            id="nested-json",
        ),
        pytest.param(
            "interactions.jsonl",
            b"[" * 100_000 + b'\n{"user": "a"}\n',
            "has no column `item`",
            id="deep-json",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, data, told):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(UserError, match=told):
        open_dataset(str(tmp_path), CONFIG)


def test_ids_inside_parquet_structs_are_refused(tmp_path):
    table = pa.table({"user": ["a"], "item": [{"id": "0"}]})
    pq.write_table(table, tmp_path / "interactions.parquet")

    with pytest.raises(UserError, match="`item`, named by `columns.candidate_id`, holds objects"):
        open_dataset(str(tmp_path), CONFIG)

"""Files that cannot be read are refused with their name and the cause, before a job starts."""

import datetime
import decimal
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare.dataset_files import open_dataset
from pipelines.prepare.head_check import check_heads
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


# Of a column of each type, two values that are sound in each of its forms, where there are such.
COLUMNS = {
    "text": pa.array(["1", "0"]),
    "view": pa.array(["1", "0"], pa.string_view()),
    "bytes": pa.array([b"1", b"0"]),
    "fixed": pa.array([b"1", b"0"], pa.binary(1)),
    "dictionary of bytes": pa.array([b"1", b"0"]).dictionary_encode(),
    "whole": pa.array([1, 0]),
    "half": pa.array([1.0, 0.0], pa.float16()),
    "decimal": pa.array([decimal.Decimal(1), decimal.Decimal(0)], pa.decimal128(20, 0)),
    "dictionary of decimals": pa.array([decimal.Decimal(1)] * 2).dictionary_encode(),
    "boolean": pa.array([True, False]),
    "date": pa.array([datetime.date(2024, 5, 1)] * 2),
    "timestamp": pa.array([0, 1], pa.timestamp("ns", "UTC")),
    "time": pa.array([0, 1], pa.time32("s")),
    "duration": pa.array([0, 1], pa.duration("us")),
    "nothing": pa.nulls(2),
    "list of text": pa.array([["1", "0"]] * 2),
    "list of bytes": pa.array([[b"1", b"0"]] * 2),
    "list of numbers": pa.array([[1.0, 0.0]] * 2, pa.list_(pa.float32(), 2)),
    "list of lists": pa.array([[["1"]]] * 2),
    "map": pa.array([[("1", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
    "list of maps": pa.array([[[("1", 1)]]] * 2, pa.list_(pa.map_(pa.string(), pa.int64()))),
}
SCALARS = {"text", "view", "bytes", "fixed", "dictionary of bytes", "whole", "half", "decimal",
           "dictionary of decimals", "nothing"}  # fmt: skip
LISTS = {"list of text", "list of bytes", "list of numbers"}
MOMENTS = {"date", "timestamp"}
TEXTS = SCALARS | LISTS | MOMENTS | {"boolean", "time", "duration", "list of lists"}
IS_TEXT = {"text", "view", "bytes", "fixed", "dictionary of bytes", "nothing"}
TYPED = parse_config(
    """
columns: {query_id: user, candidate_id: item, timestamp: t, order: place, value: stars}
labels: {positive_from: 0}
features:
  query: {user: {kind: id}}
  context:
    price: {kind: number}
    kind: {kind: categorical}
    tags: {kind: multi_categorical}
    content: {kind: vector, dimension: 2}
    is_new: {kind: boolean}
    since: {kind: timestamp, column: since}
  candidate: {item: {kind: id}}
""",
    "twotower.yaml",
)
SOUND = {
    "user": ["a", "b"], "item": ["x", "y"], "t": [1, 2], "place": [1, 2], "stars": [1.0, 2.0],
    "price": [1.0, 2.0], "kind": ["a", "b"], "tags": [["a"], []], "content": [[1.0, 2.0]] * 2,
    "is_new": [True, False], "since": [1, 2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("column", "named", "taken", "expected"),
    [
        ("user", "`columns.query_id`", TEXTS, "text, numbers, booleans, dates or lists of them"),
        ("kind", "`features.context.kind`", TEXTS, "text, numbers, booleans, dates or lists"),
        ("tags", "`features.context.tags`", TEXTS, "text, numbers, booleans, dates or lists"),
        ("t", "`columns.timestamp`", SCALARS | MOMENTS, "timestamps, dates, whole numbers or text"),
        ("since", "`features.context.since`", SCALARS | MOMENTS, "timestamps, dates, whole"),
        ("place", "`columns.order`", SCALARS, "whole numbers or text"),
        ("stars", "`columns.value`", SCALARS | {"boolean"}, "numbers, booleans or text"),
        ("price", "`features.context.price`", SCALARS | {"boolean"}, "numbers, booleans or text"),
        ("is_new", "`features.context.is_new`", SCALARS | {"boolean"}, "booleans, numbers or text"),
        ("content", "`features.context.content`", IS_TEXT | LISTS, "lists of numbers or text"),
    ],
)
def test_parquet_columns_are_read_or_their_type_is_told(tmp_path, column, named, taken, expected):
    path = tmp_path / "interactions.parquet"
    for name, values in COLUMNS.items():
        if column == "content" and name in IS_TEXT - {"nothing"}:
            values = pa.array(["1 0", "0 1"]).cast(values.type if name == "view" else pa.string())
        pq.write_table(pa.table({**SOUND, column: values}), path)
        try:
            check_heads(open_dataset(str(tmp_path), TYPED), TYPED, 0.0)
        except UserError as error:
            told = str(error)
        else:
            told = ""

        stored = pq.read_schema(path).field(column).type
        is_missing = name == "nothing" and column in ("user", "t", "place")
        if is_missing:
            assert "2 of the first 2 records of the interactions cannot be used" in told
        elif name in taken:
            assert told == "", (name, told)
        else:
            assert told.startswith(
                f"{path}: column `{column}`, named by {named}, is of type {stored}: "
                f"expected {expected}"
            ), (name, told)
            assert told.endswith("; convert it, or name another column")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pa.array([b"\xff", b"a"]), id="bytes"),
        pytest.param(pa.array([[b"\xff"], [b"a"]]), id="lists"),
        pytest.param(pa.array([b"\xff", b"a"]).dictionary_encode(), id="dictionary"),
    ],
)
def test_bytes_that_are_no_text_are_told_with_their_column(tmp_path, values):
    path = tmp_path / "interactions.parquet"
    pq.write_table(pa.table({"user": values, "item": ["x", "y"]}), path)

    with pytest.raises(UserError) as raised:
        check_heads(open_dataset(str(tmp_path), CONFIG), CONFIG, 0.0)

    assert str(raised.value) == (
        f"cannot read {path}: column `user` is of type {pq.read_schema(path).field('user').type}, "
        "and its bytes are no UTF-8 text: write it as text"
    )


def test_the_type_of_a_column_inside_a_struct_is_told_by_its_path(tmp_path):
    nested = CONFIG.model_copy(
        update={"columns": CONFIG.columns.model_copy(update={"query_id": "user.id"})}
    )
    users = pa.array([{"id": [("a", 1)]}], pa.struct({"id": pa.map_(pa.string(), pa.int64())}))
    pq.write_table(pa.table({"user": users, "item": ["x"]}), tmp_path / "interactions.parquet")

    with pytest.raises(UserError, match="column `user.id`, named by .*, is of type map"):
        open_dataset(str(tmp_path), nested)

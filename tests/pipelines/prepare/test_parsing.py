"""Every record of a file is read or rejected, however the file is cut and whatever it holds."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.prepare import parsing
from pipelines.prepare.dataset_files import INTERACTIONS, QUERIES, Chunk

COLUMNS = ("a", "b")


def chunk_of(path, kind=INTERACTIONS, start=0, end=None, number=0, header=COLUMNS):
    name = path.name
    file_format = name.removesuffix(".gz").rsplit(".", 1)[1]
    size = path.stat().st_size if end is None else end
    is_gzip = name.endswith(".gz")
    return Chunk(
        kind, str(path), name, file_format, is_gzip, header if file_format == "csv" else (),
        number, start, size,
    )  # fmt: skip


def read_all(*chunks, numeric=()):
    """Values by column, and (row, reason) of the rejects; rows go on from chunk to chunk."""
    values, rejects, before = [], [], 0
    for chunk in chunks:
        num_read = 0
        for batch in parsing.read_chunk(chunk, COLUMNS, numeric):
            table = batch.table.select(list(COLUMNS)).to_pylist()
            values += [
                (before + int(r), *row.values()) for r, row in zip(batch.rows, table, strict=True)
            ]
            rejects += [(before + r.row, r.reason) for r in batch.rejects]
            num_read += batch.num_read
        before += num_read
    return values, rejects


def test_csv_rows_with_another_number_of_fields_are_rejected_one_by_one(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,2\n\n3\n4,5\r\n6,7,8\n9,\n")

    values, rejects = read_all(chunk_of(path))

    assert values == [(0, "1", "2"), (2, "4", "5"), (4, "9", "")]
    assert rejects == [(1, "malformed_line"), (3, "malformed_line")]


def test_a_rejected_record_keeps_its_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,2\nonly one\n"open,1\ncaf\xe9,1\n')

    (batch,) = parsing.read_chunk(chunk_of(path), COLUMNS, ())

    assert sorted((r.record, r.reason) for r in batch.rejects) == [
        ('"open,1', "malformed_line"),
        ("caf�,1", "invalid_utf8"),
        ("only one", "malformed_line"),
    ]
    assert batch.rejected(0, "why").record == "1,2"


@pytest.mark.parametrize("cut", range(1, 30))
def test_the_same_records_come_from_any_two_parts_of_a_file(tmp_path, cut):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n1,one\n22,two\nbad\n333,three\n4,four")
    size = path.stat().st_size

    parts = chunk_of(path, end=cut), chunk_of(path, start=cut, end=size, number=1)

    assert read_all(*parts) == read_all(chunk_of(path))


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "1", "b": "2"}\n')

    assert read_all(chunk_of(path)) == ([(0, "1", "2")], [])


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_id_may_begin_with_a_byte_order_mark(tmp_path, mark):
    path = tmp_path / "x.csv"
    path.write_text(f"{mark}a,b\n\ufeff1,one\n\ufeff2,two\n")

    assert read_all(chunk_of(path)) == ([(0, "\ufeff1", "one"), (1, "\ufeff2", "two")], [])


def test_quoted_line_breaks_are_read_where_files_are_whole(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,"two\nlines"\n2,x\n')

    values, rejects = read_all(chunk_of(path, kind=QUERIES))

    assert (values, rejects) == ([(0, "1", "two\nlines"), (1, "2", "x")], [])


def test_gzip_of_several_members_is_one_text(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "STREAM_BATCH_BYTES", 8)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n3") + gzip.compress(b",4\n5,6"))

    assert read_all(chunk_of(path))[0] == [(0, "1", "2"), (1, "3", "4"), (2, "5", "6")]


def test_gzip_cut_short_is_an_error_of_the_file(tmp_path):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 1000)[:-9])

    with pytest.raises(OSError, match="broken gzip data"):
        read_all(chunk_of(path))


def test_json_values_come_as_they_are_written(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = ['{"a": 1, "b": "x"}', '{"b": null, "c": 2}', '{"a": 7, "b": "y"}']
    path.write_text("\n".join(rows))

    assert read_all(chunk_of(path))[0] == [(0, 1, "x"), (1, None, None), (2, 7, "y")]


def test_mixed_json_values_become_text_and_broken_lines_rejects(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        '{"a": 1.50, "b": [1, "x", null]}',
        '{"a": true, "b": null}',
        '{"a": 1, "b": []} {"a": 2}',
        "[1]",
        '{"a": "\\ud800", "b": null}',
        "not json",
    ]
    path.write_text("\n".join(lines))

    values, rejects = read_all(chunk_of(path))

    assert values == [(0, "1.50", ["1", "x", None]), (1, "true", None)]
    assert rejects == [(row, "malformed_line") for row in (2, 3, 4, 5)]


def test_a_row_group_of_parquet_is_read_by_itself(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"b": ["x", "y", "z"], "a": [1, 2, 3]}), path, row_group_size=2)

    assert read_all(chunk_of(path, start=1, end=2))[0] == [(0, 3, "z")]


# Bytes that mean something to a parser, and some that mean nothing.
RUBBISH = st.lists(
    st.sampled_from([b"a", b"1", b",", b'"', b"\n", b"\r", b"\r\n", b" ", b"\xff", b"\xc3\xa9",
                     b"\0", b"{", b"}", b":", b"[", b"]", b'{"a": 1, "b": "x"}', b"x,y\n"]),
    max_size=60,
).map(b"".join)  # fmt: skip


def count_lines(data):
    """Lines that hold more than spaces, tabs and carriage returns."""
    return sum(bool(line.strip(b" \t\r")) for line in data.split(b"\n"))


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
@given(data=RUBBISH)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_of_rubbish_is_read_or_rejected(tmp_path, file_format, data):
    path = tmp_path / f"x.{file_format}"
    header = b"a,b\n" if file_format == "csv" else b""
    path.write_bytes(header + data)

    values, rejects = read_all(chunk_of(path))

    rows = sorted([value[0] for value in values] + [row for row, _ in rejects])
    assert rows == list(range(count_lines(data)))


@given(data=RUBBISH, cut=st.integers(1, 60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish_reads_the_same_in_any_two_parts(tmp_path, data, cut):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n" + data)
    size = path.stat().st_size
    parts = chunk_of(path, end=min(cut, size)), chunk_of(path, start=cut, end=size, number=1)

    halves, whole = read_all(*parts), read_all(chunk_of(path))

    assert halves[0] == whole[0]
    assert sorted(halves[1]) == sorted(whole[1])


def test_json_numbers_of_numeric_columns_take_the_fast_way(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"a": n / 2, "b": "x"}) + "\n" for n in range(3)))

    (batch,) = parsing.read_chunk(chunk_of(path), COLUMNS, {"a"})

    assert batch.table.column("a").type == pa.float64()
    np.testing.assert_array_equal(batch.table.column("a"), [0.0, 0.5, 1.0])

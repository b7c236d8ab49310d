"""Chunks of files -> Arrow tables of the needed columns; records that cannot be parsed aside."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipelines.io import filesystem
from pipelines.prepare.column_types import is_bytes, is_list
from pipelines.prepare.dataset_files import HEAD_BYTES, INTERACTIONS, Chunk, head_of
from pipelines.prepare.lines import as_text, joined, split_lines
from tfrs_twotower.schema.file_shapes import (
    BYTE_ORDER_MARK,
    CSV,
    JSON_ARRAY,
    PARQUET,
    array_items,
    value_at,
)

MALFORMED_LINE, INVALID_UTF8 = "malformed_line", "invalid_utf8"

READ_AHEAD_BYTES = 1 << 16
HEAD_ROWS = 10_000  # Of a Parquet file.
STREAM_BATCH_BYTES = 16 << 20
MAX_BLOCK_BYTES = 1 << 30


class Reject(NamedTuple):
    """A record that cannot be used."""

    row: int  # Position in its chunk, blank lines and header not counted.
    reason: str  # One of a closed set of constants.
    record: str


class RawBatch:
    """Parsed records of a part of a chunk."""

    def __init__(
        self,
        table: pa.Table,
        rows: np.ndarray,
        rejects: list[Reject],
        records: pa.LargeBinaryArray | None,
    ) -> None:
        """Holds a batch.

        Args:
            table: One row a sound record, one chunk a column.
            rows: `[n]` int64, the position of each in its chunk.
            rejects: The other records.
            records: `[n]` the text of each sound record; None where the file is no text.
        """
        self.table, self.rows, self.rejects, self.records = table, rows, rejects, records

    @property
    def num_read(self) -> int:
        """Records read, sound or not."""
        return len(self.rows) + len(self.rejects)

    def first(self, num_rows: int) -> "RawBatch":
        """The records up to a number of sound ones."""
        if num_rows >= len(self.rows):
            return self
        return RawBatch(
            self.table.slice(0, num_rows),
            self.rows[:num_rows],
            [reject for reject in self.rejects if reject.row < self.rows[num_rows]],
            None if self.records is None else self.records.slice(0, num_rows),
        )

    def rejected(self, row: int, reason: str) -> Reject:
        """A sound record that turned out to be of no use; `row` counts in the table."""
        if self.records is not None:
            record = as_text(self.records[row].as_py())
        else:
            record = json.dumps(self.table.slice(row, 1).to_pylist()[0], default=str)
        return Reject(int(self.rows[row]), reason, record)


def read_chunk(
    chunk: Chunk, columns: Collection[str], numeric: Collection[str]
) -> Iterator[RawBatch]:
    """Reads a chunk.

    Args:
        chunk: What to read.
        columns: The columns wanted. A column that a JSON record lacks is null.
        numeric: Those of them that hold numbers, so that JSON may be read as such.

    Yields:
        Batches of at most some tens of megabytes, in the order of the file.

    Raises:
        OSError: If the file cannot be read, or its gzip data are broken.
        pyarrow.ArrowException: If a Parquet file is broken.
    """
    of_file = _of_file(chunk, columns)
    if chunk.format == PARQUET:
        batches = iter([_read_row_groups(chunk, of_file)])
    else:
        batches = _read_texts(_texts(chunk), chunk, of_file, numeric)
    yield from _with_folder(batches, chunk, columns)


def read_head(
    file: Chunk, columns: Collection[str], numeric: Collection[str]
) -> Iterator[RawBatch]:
    """Reads the first records of a whole file, about a megabyte of text; see `read_chunk`.

    Nothing is read of a longer file whose quoted values may hold line breaks: the head may end
    inside one.
    """
    of_file = _of_file(file, columns)
    if file.format == PARQUET:
        batches = _first_rows(file, of_file)
    else:
        batches = _read_texts(_head_texts(file), file._replace(start=0), of_file, numeric)
    yield from _with_folder(batches, file, columns)


def _head_texts(file: Chunk) -> Iterator[bytes]:
    if file.format == JSON_ARRAY:
        yield from _texts(file)
        return
    with filesystem.open_raw(file.path) as raw:
        head = head_of(raw, file)
    if len(head) >= HEAD_BYTES:
        if file.format == CSV and file.kind != INTERACTIONS and b'"' in head:
            return
        head = head[: head.rfind(b"\n") + 1]
    yield head


def _first_rows(file: Chunk, columns: list[str]) -> Iterator[RawBatch]:
    with filesystem.open_raw(file.path) as raw:
        for batch in pq.ParquetFile(raw).iter_batches(HEAD_ROWS, columns=columns):
            yield _parquet_batch(pa.Table.from_batches([batch]), file, columns)
            return


def _of_file(chunk: Chunk, columns: Collection[str]) -> list[str]:
    """The columns that are in the file itself."""
    of_folder = dict(chunk.of_folder)
    return [column for column in columns if column not in of_folder]


def _with_folder(
    batches: Iterator[RawBatch], chunk: Chunk, columns: Collection[str]
) -> Iterator[RawBatch]:
    """Batches with the columns that the names of the folders give."""
    for batch in batches:
        for name, value in chunk.of_folder:
            if name in columns:
                values = pa.array([value] * len(batch.rows), pa.string())
                batch.table = batch.table.append_column(name, values)
        yield batch


def _read_texts(
    texts: Iterator[bytes], chunk: Chunk, columns: Collection[str], numeric: Collection[str]
) -> Iterator[RawBatch]:
    first_row = 0
    for number, data in enumerate(texts):
        text = data.removeprefix(BYTE_ORDER_MARK) if chunk.start == number == 0 else data
        lines = split_lines(
            text,
            csv=chunk.format == CSV,
            quoted_breaks=chunk.kind != INTERACTIONS,
            separator=chunk.separator,
        )
        records, is_utf8, is_sound = lines
        if chunk.format == CSV and chunk.has_header and chunk.start == number == 0:
            records, is_utf8, is_sound = records[1:], is_utf8[1:], is_sound[1:]
        rows = first_row + np.arange(len(records), dtype=np.int64)
        first_row += len(records)
        rejects: list[Reject] = []
        for mask, reason in ((~is_utf8, INVALID_UTF8), (is_utf8 & ~is_sound, MALFORMED_LINE)):
            for position in np.flatnonzero(mask).tolist():
                record = as_text(records[position].as_py())
                rejects.append(Reject(int(rows[position]), reason, record))
        if rejects:
            keep = is_utf8 & is_sound
            records, rows = records.filter(pa.array(keep)), rows[keep]
        if not len(records):
            yield RawBatch(_empty(columns), rows, rejects, records)
        elif chunk.format == CSV:
            yield _parse_csv(records, rows, rejects, chunk, columns, numeric)
        else:
            yield _parse_json(records, rows, rejects, chunk.nested, columns, numeric)


def _texts(chunk: Chunk) -> Iterator[bytes]:
    """The text of a chunk, in pieces that end with a line break or the file."""
    if chunk.format == JSON_ARRAY:
        yield _array_as_lines(b"".join(_streamed(chunk)))
        return
    if chunk.is_gzip or chunk.encoding is not None:
        pieces = _streamed(chunk)
        # Quoted line breaks can only be told with the whole file at hand.
        yield from pieces if chunk.kind == INTERACTIONS else [b"".join(pieces)]
        return
    with filesystem.open_raw(chunk.path) as file:
        start = chunk.start
        if start:
            file.seek(start - 1)
            start += len(_to_line_break(file)) - 1
        if start >= chunk.end:
            return
        file.seek(start)
        data = file.read(chunk.end - start)
        if not data.endswith(b"\n"):
            data += _to_line_break(file)
    yield data


def _to_line_break(file: Any) -> bytes:
    """Reads on to the end of a line, its break included."""
    parts: list[bytes] = []
    while part := file.read(READ_AHEAD_BYTES):
        end = part.find(b"\n")
        if end >= 0:
            return b"".join([*parts, part[: end + 1]])
        parts.append(part)
    return b"".join(parts)


def _streamed(chunk: Chunk) -> Iterator[bytes]:
    """Unpacks and decodes a file, of one gzip member or several, in pieces that end a line."""
    rest = b""
    # What cannot be decoded stays as it is: no UTF-8, so that its record is rejected.
    decoder = codecs.getincrementaldecoder(chunk.encoding or "utf-8")("surrogateescape")
    try:
        with (
            filesystem.open_raw(chunk.path) as file,
            gzip.GzipFile(fileobj=file) if chunk.is_gzip else nullcontext(file) as unpacked,
        ):
            while text := unpacked.read(STREAM_BATCH_BYTES):
                if chunk.encoding is not None:
                    text = decoder.decode(text).encode(errors="surrogateescape")
                text = rest + text
                end = text.rfind(b"\n") + 1
                rest = text[end:]
                if end:
                    yield text[:end]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(f"broken gzip data: {error}") from error
    except UnicodeError as error:
        raise OSError(f"not in {chunk.encoding} (`files.encoding`): {error}") from error
    if rest:
        yield rest


def _array_as_lines(data: bytes) -> bytes:
    """A JSON array as JSON lines."""
    text = data.removeprefix(BYTE_ORDER_MARK).decode(errors="surrogateescape")
    try:
        return "\n".join(array_items(text)).encode(errors="surrogateescape")
    except (ValueError, RecursionError) as error:
        raise OSError(f"broken JSON array: {error}") from error


def _parse_csv(
    records: pa.LargeBinaryArray,
    rows: np.ndarray,
    rejects: list[Reject],
    chunk: Chunk,
    columns: Collection[str],
    numeric: Collection[str],
) -> RawBatch:
    buffer = joined(records)
    if buffer[: len(BYTE_ORDER_MARK)].to_pybytes() == BYTE_ORDER_MARK:
        # It belongs to the first value: the file's own is gone. PyArrow drops one.
        buffer = pa.py_buffer(BYTE_ORDER_MARK + buffer.to_pybytes())
    wrong: list[int] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        wrong.append(row.number - 1)
        return "skip"

    text = pa.dictionary(pa.int32(), pa.string())
    table = pyarrow.csv.read_csv(
        pa.BufferReader(buffer),
        read_options=pa.csv.ReadOptions(
            use_threads=False,
            column_names=chunk.header,
            block_size=min(buffer.size + 1, MAX_BLOCK_BYTES),
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=chunk.separator, newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=list(columns),
            column_types={c: pa.string() if c in numeric else text for c in columns},
            check_utf8=False,
        ),
    )
    if wrong:
        for position in wrong:
            record = as_text(records[position].as_py())
            rejects.append(Reject(int(rows[position]), MALFORMED_LINE, record))
        keep = np.ones(len(rows), bool)
        keep[wrong] = False
        records, rows = records.filter(pa.array(keep)), rows[keep]
    for name in set(chunk.comma_decimals).intersection(columns, numeric):
        place = table.column_names.index(name)
        table = table.set_column(place, name, _with_point(table.column(name)))
    return RawBatch(table.combine_chunks(), rows, rejects, records)


def _with_point(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers with a decimal comma as such with a point; one with a point stays unreadable."""
    return pc.replace_substring(pc.replace_substring(text, ".", "x"), ",", ".")


def _parse_json(
    records: pa.LargeBinaryArray,
    rows: np.ndarray,
    rejects: list[Reject],
    nested: Collection[str],
    columns: Collection[str],
    numeric: Collection[str],
) -> RawBatch:
    buffer = joined(records)
    schema = _json_schema(records[0].as_py(), nested, columns, numeric)
    if schema is not None:
        try:
            table = pyarrow.json.read_json(
                pa.BufferReader(buffer),
                read_options=pa.json.ReadOptions(
                    use_threads=False, block_size=min(buffer.size + 1, MAX_BLOCK_BYTES)
                ),
                parse_options=pa.json.ParseOptions(
                    explicit_schema=schema, unexpected_field_behavior="ignore"
                ),
            )
            # Two objects in one line are one malformed record, not two sound ones.
            if table.num_rows == len(records):
                return RawBatch(_flat(table, nested, columns), rows, rejects, records)
        except pa.ArrowException:
            pass
    return _parse_json_lines(records, rows, rejects, nested, columns)


def _flat(table: pa.Table, nested: Collection[str], columns: Collection[str]) -> pa.Table:
    """The columns of a table, those within structs by their paths."""
    arrays = {}
    for name in columns:
        first, *rest = name.split(".") if name in nested else [name]
        array = table.column(first).combine_chunks()
        arrays[name] = pc.struct_field(array, rest) if rest else array
    return pa.table(arrays).combine_chunks()


def _json_schema(
    line: bytes, nested: Collection[str], columns: Collection[str], numeric: Collection[str]
) -> pa.Schema | None:
    """What the first record lets expect; None where it is no object of plain values."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    types: dict[str, Any] = {}
    for column in columns:
        value = value_at(record, column) if column in nested else record.get(column)
        items = value if isinstance(value, list) else [value]
        sample = next((item for item in items if item is not None), None)
        dtype = _json_type(sample, column in numeric)
        if dtype is None:
            return None
        *parents, last = column.split(".") if column in nested else [column]
        inside = types
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = pa.list_(dtype) if items is value else dtype
    return pa.schema(_fields(types))


def _fields(types: dict[str, Any]) -> list[tuple[str, pa.DataType]]:
    return [
        (name, pa.struct(_fields(dtype)) if isinstance(dtype, dict) else dtype)
        for name, dtype in types.items()
    ]


def _json_type(value: object, is_numeric: bool) -> pa.DataType | None:
    if value is None or isinstance(value, str):
        return pa.string()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    # As text, a float must keep its digits, which Arrow's reader would not.
    return pa.float64() if isinstance(value, float) and is_numeric else None


def _parse_json_lines(
    records: pa.LargeBinaryArray,
    rows: np.ndarray,
    rejects: list[Reject],
    nested: Collection[str],
    columns: Collection[str],
) -> RawBatch:
    """The patient way, record by record, for a batch that holds a malformed or a mixed one."""
    values: dict[str, list[Any]] = {column: [] for column in columns}
    keep = np.ones(len(rows), bool)
    for position, line in enumerate(records.to_pylist()):
        try:
            record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
            if not isinstance(record, dict):
                raise ValueError("not an object")
            fields = [
                _json_text(value_at(record, name) if name in nested else record.get(name))
                for name in columns
            ]
        except (ValueError, RecursionError):
            keep[position] = False
            rejects.append(Reject(int(rows[position]), MALFORMED_LINE, as_text(line)))
            continue
        for column, field in zip(columns, fields, strict=True):
            values[column].append(field)
    arrays = [_json_array(values[column]) for column in columns]
    table = pa.table(arrays, names=list(columns))
    return RawBatch(table, rows[keep], rejects, records.filter(pa.array(keep)))


def _json_text(value: Any) -> Any:
    """A JSON value as text, as a list of texts, or None.

    Raises:
        ValueError: If it is an object, whose text nobody means, or holds half a character.
    """
    if isinstance(value, list):
        return [
            _json_text(item) if not isinstance(item, list) else json.dumps(item) for item in value
        ]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        raise ValueError("an object")
    if isinstance(value, str):
        # An escape of half a surrogate pair is no text: UnicodeEncodeError is a ValueError.
        value.encode()
    return value


def _json_array(values: list[Any]) -> pa.Array:
    lists = [isinstance(value, list) for value in values]
    if not any(lists):
        return pa.array(values, pa.string())
    if all(is_list or value is None for is_list, value in zip(lists, values, strict=True)):
        return pa.array(values, pa.list_(pa.string()))
    return pa.array([json.dumps(v) if isinstance(v, list) else v for v in values], pa.string())


def _read_row_groups(chunk: Chunk, columns: list[str]) -> RawBatch:
    with filesystem.open_raw(chunk.path) as file:
        source = pq.ParquetFile(io.BytesIO(file.read()) if not file.seekable() else file)
        groups = list(range(chunk.start, chunk.end))
        table = source.read_row_groups(groups, columns=columns, use_threads=False)
    return _parquet_batch(table, chunk, columns)


def _parquet_batch(table: pa.Table, chunk: Chunk, columns: list[str]) -> RawBatch:
    rows = np.arange(table.num_rows, dtype=np.int64)
    flat = _flat(table, chunk.nested, columns)
    texts = {name: _with_text(name, flat.column(name)) for name in columns}
    return RawBatch(pa.table(texts), rows, [], None)


def _with_text(name: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column with text for bytes, which a writer that knew no text has left.

    Raises:
        pyarrow.ArrowInvalid: If the bytes are no text.
    """
    text = _text_type(values.type)
    try:
        return values if text == values.type else values.cast(text)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(
            f"column `{name}` is of type {values.type}, and its bytes are no UTF-8 text: write it "
            "as text"
        ) from error


def _text_type(dtype: pa.DataType) -> pa.DataType:
    if is_bytes(dtype):
        return pa.string()
    if pa.types.is_dictionary(dtype):
        return pa.dictionary(dtype.index_type, _text_type(dtype.value_type), dtype.ordered)
    if is_list(dtype) and _text_type(dtype.value_type) != dtype.value_type:
        return pa.list_(_text_type(dtype.value_type))
    return dtype


def _empty(columns: Collection[str]) -> pa.Table:
    return pa.table({column: pa.array([], pa.string()) for column in columns})

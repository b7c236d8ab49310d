"""The first rows of the files of a dataset folder, as they stand."""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.file_shapes import (
    BYTE_ORDER_MARK,
    CSV,
    PARQUET,
    UTF16_MARKS,
    array_items,
    fields_of,
    flattened,
    folder_columns,
    is_array,
    local_files,
    looks_like_data,
    separator_of,
    shape_of,
)

ASSUMED_ENCODING = "cp1252"  # Of text that is not UTF-8: what most old tools wrote.
HEAD_BYTES = 1 << 20
DECIMAL_COMMA = r"^[+-]?\d+(?:,\d+)?$"
MOSTLY = 0.95


@dataclass(frozen=True)
class Writing:
    """How a file is written, as the section `files` of a config says it."""

    encoding: str = "utf-8"
    header: tuple[str, ...] = ()  # Names made up for a file without a header.
    decimal: str = "."


@dataclass(frozen=True)
class Head:
    """The first rows of the files of one kind.

    `rows`: text columns as they stand in a CSV file, typed ones from the other formats, those of
    objects by path; a missing value is NaN, None or "". `num_unreadable`: lines that are no record.
    `is_whole`: whether the files have no further rows. `writing`: of the first file.
    """

    file_names: tuple[str, ...]
    rows: pd.DataFrame
    num_unreadable: int
    is_whole: bool
    writing: Writing = field(default_factory=Writing)


def read_head(folder: Path, kind: str, max_rows: int) -> Head | None:
    """Reads the first rows of the files of a kind; see `file_shapes.local_files`.

    Args:
        folder: The dataset folder.
        kind: interactions, candidates or queries.
        max_rows: How many rows to read, over all files in the order of their names.

    Returns:
        The rows, or None where there is no such file.

    Raises:
        UserError: If a file cannot be read.
    """
    paths = local_files(folder, kind)
    if not paths:
        return None
    tables: list[pd.DataFrame] = []
    writings: list[Writing] = []
    num_read = num_unreadable = 0
    for path in paths:
        if num_read > max_rows:
            break
        table, unreadable, writing = _read(path, max_rows + 1 - num_read)
        for name, value in folder_columns(path.relative_to(folder).as_posix()).items():
            if name not in table:
                table[name] = value
        tables.append(table)
        writings.append(writing)
        num_unreadable += unreadable
        num_read += len(table) + unreadable
    rows = pd.concat(tables, ignore_index=True).head(max_rows)
    writing = writings[0]
    if writing.decimal == ",":
        rows = rows.apply(_with_point)
    return Head(
        file_names=tuple(path.relative_to(folder).as_posix() for path in paths),
        rows=rows,
        num_unreadable=num_unreadable,
        is_whole=num_read <= max_rows,
        writing=writing,
    )


def _read(path: Path, max_rows: int) -> tuple[pd.DataFrame, int, Writing]:
    shape = shape_of(path.name)
    writing = Writing()
    try:
        if shape.format == PARQUET:
            batches = pq.ParquetFile(path).iter_batches(batch_size=max_rows)
            empty = pq.read_schema(path).empty_table()
            table = pa.Table.from_batches(list(itertools.islice(batches, 1)), empty.schema)
            rows, unreadable = _flat(table).to_pandas(types_mapper=_nullable), 0
        else:
            head = _head(path)
            writing = Writing(encoding=_encoding_of(head))
            encoding = "utf-8-sig" if writing.encoding == "utf-8" else writing.encoding
            opened: Any = gzip.open if shape.is_gzip else open
            with opened(path, "rt", encoding=encoding, errors="replace", newline="") as text:
                if shape.format == CSV:
                    rows, unreadable, writing = _read_csv(text, shape.separator, writing, max_rows)
                else:
                    rows, unreadable = _read_json(text, is_array(head), max_rows)
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    return rows.rename(columns=str), unreadable, writing


def _head(path: Path) -> bytes:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        return bytes(file.read(HEAD_BYTES))


def _encoding_of(head: bytes) -> str:
    if head.startswith(UTF16_MARKS):
        return "utf-16"
    lines = head.removeprefix(BYTE_ORDER_MARK).splitlines(keepends=True)
    # The head may end within a character; a few broken lines do not make another encoding.
    broken = sum(not _is_utf8(line) for line in lines[:-1] or lines)
    return ASSUMED_ENCODING if broken > (1 - MOSTLY) * len(lines) else "utf-8"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _nullable(dtype: pa.DataType) -> pd.api.extensions.ExtensionDtype | None:
    """Integers stay integers beside missing ones."""
    return pd.Int64Dtype() if pa.types.is_integer(dtype) else None


def _flat(table: pa.Table) -> pa.Table:
    """A table whose structs are columns by path."""
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    return table


def _read_csv(
    text: TextIO, separator: str | None, writing: Writing, max_rows: int
) -> tuple[pd.DataFrame, int, Writing]:
    unreadable: list[list[str]] = []
    first = text.readline().rstrip("\r\n")
    separator = separator or separator_of(first)
    fields = fields_of(first, separator)
    if not fields:
        return pd.DataFrame(), 0, writing
    if looks_like_data(fields):
        names = tuple(f"column_{number}" for number in range(1, len(fields) + 1))
        writing = replace(writing, header=names)
    text.seek(0)
    # Only the Python parser takes a function for bad lines.
    table = pd.read_csv(
        text,
        sep=separator,
        header=None if writing.header else 0,
        names=list(writing.header) or None,
        nrows=max_rows,
        dtype=str,
        keep_default_na=False,
        on_bad_lines=unreadable.append,
        engine="python",
    )
    # A line that is too short has NaN at its end, where an empty field has "".
    is_cut = table.iloc[:, -1].isna()
    table = table[~is_cut]
    if separator != "," and any(map(_has_decimal_comma, (table[name] for name in table))):
        writing = replace(writing, decimal=",")
    return table, len(unreadable) + int(is_cut.sum()), writing


def _has_decimal_comma(values: pd.Series) -> bool:
    present = values[values != ""]
    has_comma = present.str.contains(",", regex=False)
    return bool(has_comma.any() and present.str.match(DECIMAL_COMMA).mean() >= MOSTLY)


def _with_point(values: pd.Series) -> pd.Series:
    """Numbers with a decimal comma as such with a point, other columns as they are."""
    is_text = values.map(lambda value: isinstance(value, str)).all()
    if not is_text or not _has_decimal_comma(values):
        return values
    return values.str.replace(",", ".", regex=False)


def _read_json(text: TextIO, is_one_array: bool, max_rows: int) -> tuple[pd.DataFrame, int]:
    lines: Iterable[str] = array_items(text.read()) if is_one_array else text
    records: list[dict[str, Any]] = []
    unreadable = 0
    for line in lines:
        if len(records) + unreadable == max_rows:
            break
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(flattened(record))
        elif line.strip():
            unreadable += 1
    return pd.DataFrame.from_records(records), unreadable

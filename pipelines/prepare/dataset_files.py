"""Which files a dataset folder has, whether they have the needed columns, and how they are cut."""

import difflib
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipelines.io import filesystem
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.features import History, Id, is_aggregate

INTERACTIONS, CANDIDATES, QUERIES = "interactions", "candidates", "queries"
CSV, JSONL, PARQUET = "csv", "jsonl", "parquet"
FILE_NAME = re.compile(r"\.(csv|jsonl|parquet)(\.gz)?$")

HEAD_BYTES = 1 << 20
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 8 << 20, 64 << 20
CHUNKS_WANTED = 256
FILES_AT_ONCE = 16  # That are looked at before the job starts.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Chunk(NamedTuple):
    """A part of a file that one worker reads."""

    kind: str  # INTERACTIONS, CANDIDATES or QUERIES.
    path: str
    name: str  # Of the file in the dataset folder, for people.
    format: str  # CSV, JSONL or PARQUET.
    is_gzip: bool
    header: tuple[str, ...]  # Of a CSV file: its columns in order.
    number: int  # Chunks of a file count from 0.
    start: int  # First byte, or first row group of a Parquet file.
    end: int  # One past the last.


class Dataset(NamedTuple):
    """The files of a dataset folder, cut into chunks."""

    chunks: tuple[Chunk, ...]
    interaction_bytes: int  # Size of the interactions, before compression as far as one can tell.
    candidate_bytes: int  # Likewise of the candidates.

    def of(self, kind: str) -> list[Chunk]:
        """Chunks of one kind of file."""
        return [chunk for chunk in self.chunks if chunk.kind == kind]


def needed_columns(config: Config, kind: str, *, as_of_now: bool = False) -> dict[str, str]:
    """The columns that a kind of file must have: what names it in the config, by column.

    Args:
        config: Names the columns.
        kind: Of the file.
        as_of_now: Whether the file gives aggregates, too, as there is no log to find them in.
    """
    columns = config.columns
    if kind == INTERACTIONS:
        roles = ["query_id", "candidate_id", "timestamp", "order", "event", "value"]
        if config.split.by == "column":
            roles.append("split")
        side = "context"
    elif kind == CANDIDATES:
        roles, side = ["candidate_id", "title", "available_from"], "candidate"
    else:
        roles, side = ["query_id"], "query"
    needed = {getattr(columns, role): f"`columns.{role}`" for role in roles}
    for name, feature in getattr(config.features, side).items():
        column = config.column_of(side, name)
        if column is None or isinstance(feature, Id | History):
            continue
        where = f"`features.{side}.{name}`"
        if not is_aggregate(feature):
            needed.setdefault(column, where)
        elif as_of_now:
            needed.setdefault(column, f"{where} ({feature.aggregate}, as of now)")
    if kind == CANDIDATES:
        for attribute in config.export.attributes:
            needed.setdefault(attribute, "`export.attributes`")
    return {column: where for column, where in needed.items() if column is not None}


def open_dataset(folder: str, config: Config) -> Dataset:
    """Finds the files of a dataset folder and checks that they have what the config names.

    Args:
        folder: On any Beam filesystem.
        config: Names the columns.

    Returns:
        The files, cut into chunks.

    Raises:
        UserError: If there are no interactions, a file cannot be read, or a column is missing.
    """
    folder = folder.rstrip("/")
    filesystem.check_reachable(folder)
    chunks: list[Chunk] = []
    num_bytes = dict.fromkeys((INTERACTIONS, CANDIDATES, QUERIES), 0)
    for kind in (INTERACTIONS, CANDIDATES, QUERIES):
        files = _files(folder, kind)
        if not files:
            _check_absent(folder, config, kind)
        total = sum(size for _, size in files)
        chunk_bytes = min(max(total // CHUNKS_WANTED, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
        wholes = [whole_file(path, folder, kind, size) for path, size in files]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            headers = pool.map(check_columns, wholes, repeat(config))
            wholes = [w._replace(header=h) for w, h in zip(wholes, headers, strict=True)]
            for pieces in pool.map(cut, wholes, repeat(chunk_bytes)):
                chunks += pieces
        for whole, (_, size) in zip(wholes, files, strict=True):
            # Text and Parquet pages compress to about a fifth.
            is_packed = whole.is_gzip or whole.format == PARQUET
            num_bytes[kind] += size * 5 if is_packed else size
    return Dataset(tuple(chunks), num_bytes[INTERACTIONS], num_bytes[CANDIDATES])


def _files(folder: str, kind: str) -> list[tuple[str, int]]:
    try:
        found = filesystem.match(filesystem.join(folder, f"{kind}*"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the dataset folder {folder}: {error}") from error
    return [(path, size) for path, size in found if FILE_NAME.search(path)]


def _check_absent(folder: str, config: Config, kind: str) -> None:
    if kind == INTERACTIONS:
        raise UserError(
            f"no interactions in {folder}: expected interactions*.csv, .jsonl or .parquet "
            "(text also as .gz)"
        )
    if needed := first_needed(config, kind):
        column, where = needed
        raise UserError(
            f"no {kind}*.csv, .jsonl or .parquet in {folder}, but {where} needs its column "
            f"`{column}`: add the file, or take it out of the config"
        )


def first_needed(config: Config, kind: str) -> tuple[str, str] | None:
    """The first column for which the candidates or queries must be there, and what names it.

    None: the config reads no more than their ids, so they may be absent.
    """
    id_role = "`columns.candidate_id`" if kind == CANDIDATES else "`columns.query_id`"
    needed = needed_columns(config, kind).items()
    return next(((column, where) for column, where in needed if where != id_role), None)


def whole_file(path: str, folder: str, kind: str, size: int) -> Chunk:
    """A file as one chunk, its header still unknown.

    Args:
        path: Of the file.
        folder: In which it is, for its name.
        kind: INTERACTIONS, CANDIDATES or QUERIES.
        size: In bytes.

    Raises:
        UserError: If it is a packed Parquet file.
    """
    found = FILE_NAME.search(path)
    assert found is not None
    name = path.removeprefix(folder + "/")
    file_format, is_gzip = found.group(1), found.group(2) is not None
    if file_format == PARQUET and is_gzip:
        raise UserError(f"{path}: Parquet compresses by itself: unpack the .gz")
    return Chunk(kind, path, name, file_format, is_gzip, (), 0, 0, size)


def check_columns(file: Chunk, config: Config, *, as_of_now: bool = False) -> tuple[str, ...]:
    """Checks that a file has its columns, see `needed_columns`.

    Returns:
        The header of a CSV file, else nothing.

    Raises:
        UserError: If the file cannot be read, lacks a column, or has one twice.
    """
    try:
        present, header, nested = _columns_of(file)
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"cannot read {file.path}: {first_line(error)}") from error
    if not present:
        # An empty file has no row, so nothing is missing from it.
        return header
    check_names(file.path, file.kind, present, config, as_of_now=as_of_now)
    needed = needed_columns(config, file.kind, as_of_now=as_of_now)
    for column in (config.columns.query_id, config.columns.candidate_id):
        if column in nested and column in needed:
            raise UserError(
                f"{file.path}: column `{column}`, named by {needed[column]}, holds objects, not "
                "ids: write the id in a column of its own"
            )
    return header


def check_names(
    source: str, kind: str, present: Sequence[str], config: Config, *, as_of_now: bool = False
) -> None:
    """Checks that all of `needed_columns` are there, and no column twice.

    Args:
        source: What has the columns, for messages.
        kind: INTERACTIONS, CANDIDATES or QUERIES.
        present: Its columns.
        config: Names those that are needed.
        as_of_now: See `needed_columns`.

    Raises:
        UserError: If one is missing or there twice.
    """
    for column, where in needed_columns(config, kind, as_of_now=as_of_now).items():
        if column not in present:
            named = f"has no column `{column}`, named by {where}"
            raise UserError(f"{source} {named}{_nearest(column, present)}")
    if len(set(present)) < len(present):
        twice = next(column for column in present if present.count(column) > 1)
        raise UserError(f"{source} has two columns `{twice}`: rename one")


def _columns_of(file: Chunk) -> tuple[Sequence[str], tuple[str, ...], frozenset[str]]:
    """The columns, the header of a CSV file, and which of the columns hold objects."""
    with filesystem.open_raw(file.path) as raw:
        if file.format == PARQUET:
            schema = pq.ParquetFile(raw).schema_arrow
            nested = frozenset(field.name for field in schema if pa.types.is_struct(field.type))
            return schema.names, (), nested
        head = head_of(raw, is_gzip=file.is_gzip)
    if file.format == CSV:
        first = head.removeprefix(BYTE_ORDER_MARK).split(b"\n", 1)[0]
        if not first.strip():
            if head.strip():
                raise UserError(f"{file.path} begins with a blank line: the header must be first")
            return (), (), frozenset()
        table = pyarrow.csv.read_csv(io.BytesIO(first + b"\n"))
        return table.column_names, tuple(table.column_names), frozenset()
    keys = _json_keys(head)
    return list(keys), (), frozenset(key for key, is_object in keys.items() if is_object)


def head_of(raw: BinaryIO, *, is_gzip: bool) -> bytes:
    """The first `HEAD_BYTES` of the text of a file, or all of a shorter one."""
    if not is_gzip:
        return raw.read(HEAD_BYTES)
    with gzip.GzipFile(fileobj=raw) as unpacked:
        return unpacked.read(HEAD_BYTES)


def _json_keys(head: bytes) -> dict[str, bool]:
    """Keys of the records at the head of a JSON-lines file: whether any value is an object.

    Lines that are no record do not count.
    """
    keys: dict[str, bool] = {}
    for line in head.removeprefix(BYTE_ORDER_MARK).split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            for key, value in record.items():
                keys[key] = keys.get(key, False) or isinstance(value, dict)
    return keys


def _nearest(column: str, present: Sequence[str]) -> str:
    separators = [s for s in (";", "\t", "|") if len(present) == 1 and s in present[0]]
    if separators:
        return f": its header has no comma but {separators[0]!r}; a .csv file needs commas"
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f": it has {', '.join(present)}"


def cut(file: Chunk, chunk_bytes: int) -> Iterable[Chunk]:
    """Cuts a whole file into chunks that can be read apart, of about `chunk_bytes` where it can."""
    if file.format == PARQUET:
        with filesystem.open_raw(file.path) as raw:
            num_groups = pq.ParquetFile(raw).num_row_groups
        bounds = list(range(num_groups + 1))
    elif file.is_gzip or file.kind != INTERACTIONS or file.end <= chunk_bytes:
        # Gzip has one entrance, and quoted text may hold line breaks: such a file stays whole.
        bounds = [0, file.end] if file.end else []
    else:
        count = -(-file.end // chunk_bytes)
        bounds = [file.end * number // count for number in range(count + 1)]
    return [
        file._replace(number=number, start=start, end=end)
        for number, (start, end) in enumerate(itertools.pairwise(bounds))
    ]

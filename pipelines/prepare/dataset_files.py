"""Which files a dataset folder has, whether they have the needed columns, and how they are cut."""

import difflib
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.io import filesystem
from pipelines.prepare.column_types import FORM_OF_ROLE, TEXT, Form, form_of, holds, is_list
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.features import History, Id, is_aggregate
from tfrs_twotower.schema.file_shapes import (
    BYTE_ORDER_MARK,
    CSV,
    EXPECTED,
    JSON_ARRAY,
    PARQUET,
    UTF16_MARKS,
    array_items,
    fields_of,
    flattened,
    folder_columns,
    holds_objects,
    is_array,
    looks_like_data,
    only_place,
    places,
    separator_of,
    shape_of,
)

INTERACTIONS, CANDIDATES, QUERIES = "interactions", "candidates", "queries"

HEAD_BYTES = 1 << 20
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 8 << 20, 64 << 20
CHUNKS_WANTED = 256
SHOWN_CHARACTERS = 200
FILES_AT_ONCE = 16  # That are looked at before the job starts.
MAX_ARRAY_BYTES = 1 << 29  # A JSON array is read whole.


class Chunk(NamedTuple):
    """A part of a file that one worker reads."""

    kind: str  # INTERACTIONS, CANDIDATES or QUERIES.
    path: str
    name: str  # Of the file in the dataset folder, for people.
    format: str  # CSV, JSONL, JSON_ARRAY or PARQUET.
    is_gzip: bool
    header: tuple[str, ...]  # Of a CSV file: its columns in order.
    number: int  # Chunks of a file count from 0.
    start: int  # First byte, or first row group of a Parquet file.
    end: int  # One past the last.
    has_header: bool = True  # Whether the first line of a CSV file is its header.
    separator: str = ","  # Of a CSV file.
    encoding: str | None = None  # Of text that is not UTF-8.
    comma_decimals: tuple[str, ...] = ()  # Columns whose numbers have a decimal comma.
    nested: tuple[str, ...] = ()  # Columns that are paths into objects.
    of_folder: tuple[tuple[str, str | None], ...] = ()  # Columns, and their one value.
    changed: str = ""  # When the file was changed, as its file system tells; "": unknown.
    stem: str = ""  # Of the paths of its entries in the cache; "": there is no cache.
    entries: tuple[str, ...] = ()  # Those that are there.


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
    needed: dict[str, str] = {}
    for column, where, _ in _uses(config, kind, as_of_now=as_of_now):
        needed.setdefault(column, where)
    return needed


def _uses(config: Config, kind: str, *, as_of_now: bool) -> Iterator[tuple[str, str, Form]]:
    """Each use of a column of a kind of file: the column, what names it, what it is read as."""
    if kind == INTERACTIONS:
        roles = ["query_id", "candidate_id", "timestamp", "order", "event", "value"]
        if config.split.by == "column":
            roles.append("split")
        side = "context"
    elif kind == CANDIDATES:
        roles, side = ["candidate_id", "title", "available_from"], "candidate"
    else:
        roles, side = ["query_id"], "query"
    for role in roles:
        column = getattr(config.columns, role)
        if column is not None:
            yield column, f"`columns.{role}`", FORM_OF_ROLE.get(role, TEXT)
    for name, feature in getattr(config.features, side).items():
        column = config.column_of(side, name)
        if column is None or isinstance(feature, Id | History):
            continue
        where = f"`features.{side}.{name}`"
        if not is_aggregate(feature):
            yield column, where, form_of(feature)
        elif as_of_now:
            yield column, f"{where} ({feature.aggregate}, as of now)", form_of(feature)
    if kind == CANDIDATES:
        for attribute in config.export.attributes:
            yield attribute, "`export.attributes`", TEXT


def cut_file(file: Chunk, config: Config, chunk_bytes: int) -> list[Chunk]:
    """Looks into a whole file, see `looked_at`, and cuts it."""
    return cut(looked_at(file, config), chunk_bytes)


def open_dataset(
    folder: str,
    config: Config,
    cut_file: Callable[[Chunk, Config, int], list[Chunk]] = cut_file,
) -> Dataset:
    """Finds the files of a dataset folder and checks that they have what the config names.

    Args:
        folder: On any Beam filesystem.
        config: Names the columns.
        cut_file: Gives the chunks of a whole file.

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
        files = _files(folder, config, kind)
        if not files:
            _check_absent(folder, config, kind)
        chunk_bytes = _chunk_bytes(sum(file.end for file in files))
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            for pieces in pool.map(cut_file, files, repeat(config), repeat(chunk_bytes)):
                chunks += pieces
        for file in files:
            # Text and Parquet pages compress to about a fifth.
            is_packed = file.is_gzip or file.format == PARQUET
            num_bytes[kind] += file.end * 5 if is_packed else file.end
    return Dataset(tuple(chunks), num_bytes[INTERACTIONS], num_bytes[CANDIDATES])


def _chunk_bytes(total: int) -> int:
    """How large a chunk is; a power of two, so that a log that grows is mostly cut as before."""
    wanted = min(max(total // CHUNKS_WANTED, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)
    return 1 << (wanted.bit_length() - 1)


def _files(folder: str, config: Config, kind: str) -> list[Chunk]:
    """The files of a kind, see `whole_file`."""
    stated = config.files.path_of(kind)
    by_place = []
    for patterns in [(stated,)] if stated else places(kind):
        found = dict[str, tuple[str, int, str]]()
        for pattern in patterns:
            # A Beam filesystem takes `**/` for at least one folder, Python for any number.
            for one in {pattern, pattern.replace("**/", "")}:
                for path, (size, changed) in _matches(folder, one).items():
                    found[_name(path, folder)] = path, size, changed
        by_place.append(found)
    return [
        whole_file(path, folder, kind, size)._replace(changed=changed)
        for path, size, changed in only_place(by_place, kind).values()
    ]


def _matches(folder: str, pattern: str) -> dict[str, tuple[int, str]]:
    try:
        return filesystem.versions(filesystem.join(folder, pattern))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the dataset folder {folder}: {error}") from error


def _name(path: str, folder: str) -> str:
    return path.removeprefix(folder + "/")


def _check_absent(folder: str, config: Config, kind: str) -> None:
    stated = config.files.path_of(kind)
    where = f"{stated} (`files.paths.{kind}`)" if stated else f"{kind}*"
    if kind == INTERACTIONS:
        others = [_name(path, folder) for path in _matches(folder, stated or f"{kind}*")]
        there = f"; {others[0]} is none of these" if others else ""
        raise UserError(f"no interactions in {folder}: expected {where} as {EXPECTED}{there}")
    if stated:
        raise UserError(f"no {kind} in {folder}: expected {where} as {EXPECTED}")
    if needed := first_needed(config, kind):
        column, named = needed
        raise UserError(
            f"no {kind}* in {folder}, but {named} needs its column `{column}`: add the file, as "
            f"{EXPECTED}, or take it out of the config"
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
    shape = shape_of(path)
    name = _name(path, folder)
    if shape.format == PARQUET and shape.is_gzip:
        raise UserError(f"{path}: Parquet compresses by itself: unpack the .gz")
    of_folder = tuple(folder_columns(name).items())
    file = Chunk(kind, path, name, shape.format, shape.is_gzip, (), 0, 0, size)
    return file._replace(separator=shape.separator or "", of_folder=of_folder)


def looked_at(file: Chunk, config: Config, *, as_of_now: bool = False) -> Chunk:
    """Looks into a whole file: how it is written, and whether it has its columns.

    Args:
        file: Of `whole_file`.
        config: Names the columns, and says how files are written.
        as_of_now: See `needed_columns`.

    Returns:
        The file with all that a reader must know.

    Raises:
        UserError: If the file cannot be read, lacks a column, has one twice, or holds values in
            one that cannot be what the config reads it as.
    """
    try:
        file, present, objects, types = _columns_of(file, config)
    except (OSError, EOFError, ValueError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"cannot read {file.path}: {first_line(error)}") from error
    # A folder's column is none where the file has it.
    file = file._replace(of_folder=tuple(p for p in file.of_folder if p[0] not in present))
    if not present:
        # An empty file has no row, so nothing is missing from it.
        return file
    all_present = [*present, *dict(file.of_folder), *(p for p in objects if p not in present)]
    check_names(file.path, file.kind, all_present, config, as_of_now=as_of_now)
    needed = needed_columns(config, file.kind, as_of_now=as_of_now)
    for column, where in needed.items():
        if column in objects and objects[column]:
            paths = ", ".join(p for p in objects if p.startswith(f"{column}."))
            cure = f"name a path ({paths})" if paths else "write the values in columns of their own"
            raise UserError(
                f"{file.path}: column `{column}`, named by {where}, holds objects, not values: "
                f"{cure}"
            )
    check_types(file.path, file.kind, types, config, as_of_now=as_of_now)
    nested = [name for name in needed if name not in present and name in objects]
    return file._replace(nested=tuple(nested))


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


def check_types(
    source: str,
    kind: str,
    types: Mapping[str, pa.DataType],
    config: Config,
    *,
    as_of_now: bool = False,
) -> None:
    """Checks that columns are of types that can be read as what the config makes of them.

    Args:
        source: What has the columns, for messages.
        kind: INTERACTIONS, CANDIDATES or QUERIES.
        types: By column, as far as they have any.
        config: Names the columns.
        as_of_now: See `needed_columns`.

    Raises:
        UserError: If one is of another type.
    """
    for column, where, form in _uses(config, kind, as_of_now=as_of_now):
        if column in types and not holds(form, types[column]):
            raise UserError(
                f"{source}: column `{column}`, named by {where}, is of type {types[column]}: "
                f"expected {form.expected}; convert it, or name another column"
            )


def _columns_of(
    file: Chunk, config: Config
) -> tuple[Chunk, Sequence[str], dict[str, bool], dict[str, pa.DataType]]:
    """What a file is and has.

    Returns:
        The file with what its first bytes show; its columns; what is in objects by path, and the
        columns that hold them: whether it is an object; the types of columns and paths, of
        Parquet.
    """
    if file.format == PARQUET:
        with filesystem.open_raw(file.path) as raw:
            schema = pq.ParquetFile(raw).schema_arrow
        types = _types(schema)
        return file, schema.names, _struct_paths(schema.names, types), types
    files = config.files
    file = file._replace(encoding=None if files.is_utf8 else files.encoding)
    with filesystem.open_raw(file.path) as raw:
        head = head_of(raw, file)
    if file.format == CSV:
        file = _with_header(file, head, config)
        return file, file.header, {}, {}
    if is_array(head):
        file = file._replace(format=JSON_ARRAY)
        if file.end > MAX_ARRAY_BYTES:
            raise UserError(
                f"{file.path}: a JSON array of more than {MAX_ARRAY_BYTES >> 20} MB cannot be read "
                "whole: write JSON lines, an object on each line (.jsonl)"
            )
    keys, paths = _json_keys(head, file.format)
    return file, keys, paths, {}


def _with_header(file: Chunk, head: bytes, config: Config) -> Chunk:
    """A CSV file with its separator and its columns."""
    files = config.files
    names = files.header_of(file.kind)
    if head.startswith(UTF16_MARKS):
        raise UserError(f"{file.path} is not UTF-8: state `files.encoding: utf-16`")
    first = head.removeprefix(BYTE_ORDER_MARK).split(b"\n", 1)[0]
    if not first.strip():
        if head.strip():
            raise UserError(f"{file.path} begins with a blank line: the header must be first")
        return file
    try:
        line = first.decode().rstrip("\r")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file.path}: its first line is not UTF-8: state `files.encoding`, such as cp1252"
        ) from error
    separator = files.separator or file.separator or separator_of(line)
    fields = fields_of(line, separator)
    if names is not None and len(names) != len(fields):
        raise UserError(
            f"{file.path}: `files.header.{file.kind}` names {len(names)} columns, but the first "
            f"line has {len(fields)} fields (separated by {separator!r})"
        )
    if names == fields:
        raise UserError(
            f"{file.path} has a header: take `files.header.{file.kind}` out of the config"
        )
    if names is None and looks_like_data(fields) and not _has_any(fields, config, file.kind):
        raise UserError(
            f"{file.path} has no header, its first line is {line[:SHOWN_CHARACTERS]!r}: name its "
            f"{len(fields)} columns in `files.header.{file.kind}`"
        )
    return file._replace(
        header=tuple(names or fields),
        has_header=names is None,
        separator=separator,
        comma_decimals=number_columns(config) if files.decimal == "," else (),
    )


def _has_any(fields: Sequence[str], config: Config, kind: str) -> bool:
    return any(column in fields for column in needed_columns(config, kind))


def number_columns(config: Config) -> tuple[str, ...]:
    """Columns of numbers, times aside."""
    named = {config.columns.value, config.columns.order}
    for side, features in config.features.by_side.items():
        for name, feature in features.items():
            if feature.kind in ("number", "vector"):
                named.add(config.column_of(side, name))
    return tuple(sorted(filter(None, named)))


def _types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The types of all columns, and of all that is in structs by path."""
    types: dict[str, pa.DataType] = {}

    def add(path: str, dtype: pa.DataType) -> None:
        types[path] = dtype
        if pa.types.is_struct(dtype):
            for field in dtype:
                add(f"{path}.{field.name}", field.type)

    for field in schema:
        add(field.name, field.type)
    return types


def _struct_paths(columns: Sequence[str], types: Mapping[str, pa.DataType]) -> dict[str, bool]:
    """Columns that hold structs, and paths of all that is in these: whether it is a struct."""
    is_object = {
        path: pa.types.is_struct(dtype.value_type if is_list(dtype) else dtype)
        for path, dtype in types.items()
    }
    return {path: is_one for path, is_one in is_object.items() if is_one or path not in columns}


def head_of(raw: BinaryIO, file: Chunk) -> bytes:
    """The first `HEAD_BYTES` of the text of a file in UTF-8, or all of a shorter one."""
    if not file.is_gzip:
        head = raw.read(HEAD_BYTES)
    else:
        with gzip.GzipFile(fileobj=raw) as unpacked:
            head = unpacked.read(HEAD_BYTES)
    return head if file.encoding is None else head.decode(file.encoding, "ignore").encode()


def _json_keys(head: bytes, file_format: str) -> tuple[list[str], dict[str, bool]]:
    """Keys of the records at the head of a file of JSON, and what is in objects by path.

    Lines that are no record do not count. Of a path: whether any value is an object.
    """
    keys: dict[str, None] = {}
    paths: dict[str, bool] = {}
    for record in _json_records(head, file_format):
        keys |= dict.fromkeys(record)
        for key, value in record.items():
            if holds_objects(value):
                paths[key] = True
        for path, value in flattened(record).items():
            if path not in record:
                paths[path] = paths.get(path, False) or holds_objects(value)
    return list(keys), paths


def _json_records(head: bytes, file_format: str) -> Iterable[dict[str, object]]:
    text = head.removeprefix(BYTE_ORDER_MARK)
    if file_format == JSON_ARRAY:
        lines: Iterable[str | bytes] = _whole_items(text.decode(errors="ignore"))
    else:
        lines = text.split(b"\n")
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def _whole_items(text: str) -> Iterable[str]:
    """The items of an array up to where the text ends."""
    try:
        yield from array_items(text)
    except (ValueError, RecursionError):
        return


def _nearest(column: str, present: Sequence[str]) -> str:
    near = difflib.get_close_matches(column, present, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f": it has {', '.join(present)}"


def cut(file: Chunk, chunk_bytes: int) -> list[Chunk]:
    """Cuts a whole file into chunks that can be read apart, of about `chunk_bytes` where it can."""
    is_stream = file.is_gzip or file.encoding is not None or file.format == JSON_ARRAY
    if file.format == PARQUET:
        with filesystem.open_raw(file.path) as raw:
            num_groups = pq.ParquetFile(raw).num_row_groups
        bounds = list(range(num_groups + 1))
    elif is_stream or file.kind != INTERACTIONS or file.end <= chunk_bytes:
        # Gzip and wide characters have one entrance, and quoted text may hold line breaks.
        bounds = [0, file.end] if file.end else []
    else:
        count = -(-file.end // chunk_bytes)
        bounds = [file.end * number // count for number in range(count + 1)]
    return [
        file._replace(number=number, start=start, end=end)
        for number, (start, end) in enumerate(itertools.pairwise(bounds))
    ]

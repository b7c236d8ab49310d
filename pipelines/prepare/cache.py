"""What was parsed of files, kept from job to job: what has not changed is not read again.

    CACHE/<dataset>/files-<sha256>.json              how each file is written and cut, by key
    CACHE/<dataset>/<file>-<part>-<attempt>.batches  the parsed batches of a part of a file

A key is a digest of all on which the parsed batches depend: the file's path, size and time of
change as the file system tells them, the needed columns, `files` of the config, and the versions of
what parses. Labels, filters and split are not among them: batches are checked by every job anew. An
entry is written once; whatever is wrong with one, its part is read from the dataset again.
"""

import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipelines.io import filesystem
from pipelines.io.filesystem import NewFile, join
from pipelines.io.tables import column, from_ipc, to_ipc
from pipelines.prepare.dataset_files import Chunk, cut_file, needed_columns, number_columns
from pipelines.prepare.parsing import RawBatch, Reject, read_chunk, read_head
from pipelines.prepare.validate import numeric_columns
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.version import __version__

FORMAT = 1  # Of entries; raise it where the same file would be parsed to other batches, too.
PREFIX, SUFFIX = "files-", ".batches"
HEAD_ROWS = 10_000
LENGTH_BYTES, DIGEST_BYTES = 8, hashlib.sha256().digest_size
ROW, RECORD = "row", "record"


class Cache:
    """The launcher's side: which parts of a dataset are kept, and what may go."""

    def __init__(self, folder: str, dataset: str) -> None:
        """Looks what is there of a dataset folder.

        Raises:
            UserError: If the folder cannot be read.
        """
        filesystem.check_reachable(folder)
        self._folder = join(folder, _digest(_absolute(dataset)))
        self._entries: dict[str, list[str]] = {}
        self._known: dict[str, tuple[str, list[Chunk]]] = {}
        self._files: set[str] = set()
        try:
            self._paths = self._listed()
            for path in self._paths:
                if path.endswith(SUFFIX):
                    self._entries.setdefault(_stem(path), []).append(path)
                else:
                    self._known |= _read_known(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read the cache {folder}: {first_line(error)}") from error

    def cut_file(self, file: Chunk, config: Config, chunk_bytes: int) -> list[Chunk]:
        """See `dataset_files.cut_file`: a file that is known is not opened."""
        if not file.changed:
            # A file system that tells no time of change: the file may be another.
            return cut_file(file, config, chunk_bytes)
        file_key = _digest(_absolute(file.path), file.end, file.changed)
        numeric = sorted(numeric_columns(config)), number_columns(config)
        parsing = [*needed_columns(config, file.kind)], numeric
        versions = FORMAT, __version__, pa.__version__
        key = _digest(
            file_key, file, chunk_bytes, config.files.model_dump(mode="json"), parsing, versions
        )
        self._files.add(file_key)
        if key not in self._known:
            self._known[key] = file_key, cut_file(file, config, chunk_bytes)
        chunks = []
        for chunk in self._known[key][1]:
            stem = join(self._folder, f"{file_key}-{_digest(key, chunk.number)}")
            entries = tuple(sorted(self._entries.get(stem, ())))
            chunks.append(chunk._replace(stem=stem, entries=entries))
        return chunks

    def begin(self) -> None:
        """Writes how the files are cut, those that have changed or are gone left out.

        Raises:
            UserError: If the folder cannot be written.
        """
        known = {key: of for key, of in self._known.items() if of[0] in self._files}
        data = json.dumps(known, sort_keys=True).encode()
        path = join(self._folder, f"{PREFIX}{hashlib.sha256(data).hexdigest()}.json")
        self._index = path
        if path in self._paths:
            return
        try:
            filesystem.write_bytes(path, data)
        except Exception as error:
            raise UserError(
                f"cannot write the cache {self._folder}: {first_line(error)}"
            ) from error

    def end(self, chunks: Collection[Chunk]) -> str:
        """Removes what no job on the dataset as it is will read; tells what came from the cache.

        Another job at work on the same dataset at most reads anew what goes.
        """
        before, by_stem = set(self._paths), dict[str, list[str]]()
        stale = []
        for path in self._listed():
            if not path.endswith(SUFFIX):
                if path in before and path != self._index:
                    stale.append(path)
            elif _stem(path).rpartition("/")[2].partition("-")[0] in self._files:
                by_stem.setdefault(_stem(path), []).append(path)
            else:
                stale.append(path)
        for paths in by_stem.values():
            # Older entries than one of this job's could not be read; of equal ones one is enough.
            kept = max(set(paths) - before or paths)
            stale += [path for path in paths if path != kept]
        with suppress(Exception):
            filesystem.delete(stale)
        found = [c for c in chunks if c.entries and not set(by_stem.get(c.stem, ())) - before]
        return f"{len(found):,} of {len(chunks):,} parts of files came from the cache"

    def _listed(self) -> list[str]:
        return [path for path, _ in filesystem.match(join(self._folder, "*"))]


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _digest(*of: object) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]


def _stem(path: str) -> str:
    return path.removesuffix(SUFFIX).rpartition("-")[0]


def _read_known(path: str) -> dict[str, tuple[str, list[Chunk]]]:
    """How files are cut, by key; nothing where it is not what was written."""
    data = filesystem.read_bytes(path)
    if hashlib.sha256(data).hexdigest() not in path:
        return {}
    return {
        key: (file_key, [Chunk._make(map(_as_tuples, chunk)) for chunk in chunks])
        for key, (file_key, chunks) in json.loads(data).items()
    }


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def batches_of(
    chunk: Chunk, columns: Collection[str], numeric: Collection[str]
) -> Iterator[RawBatch]:
    """Gives what `read_chunk` does, from the cache if it is there; else it is there from now on."""
    if not chunk.stem:
        yield from read_chunk(chunk, columns, numeric)
        return
    num_given = 0
    for path in chunk.entries:
        # Whatever a damaged file makes the libraries raise.
        with suppress(Exception):
            for batch in itertools.islice(read_entry(path, chunk.stem), num_given, None):
                num_given += 1
                yield batch
            return
    path = f"{chunk.stem}-{uuid.uuid4().hex[:16]}{SUFFIX}"
    with filesystem.create(path) as file:
        entry = _NewEntry(file, chunk.stem)
        for number, batch in enumerate(read_chunk(chunk, columns, numeric)):
            entry.add(batch)
            # Those before are as in the entry that broke off: a file is parsed in one way.
            if number >= num_given:
                yield batch
        entry.end()


def head_of(file: Chunk, columns: Collection[str], numeric: Collection[str]) -> Iterator[RawBatch]:
    """Gives the first records of a file, of the cache if it is there; see `read_head`."""
    for path in file.entries:
        with suppress(Exception):
            yield next(read_entry(path, file.stem)).first(HEAD_ROWS)
            return
    yield from read_head(file, columns, numeric)


class _NewEntry:
    """An entry in the making.

    Each piece stands behind its length and a digest of itself and all before it, the stem of the
    name first. The last is empty: an entry without it was not written to its end.
    """

    def __init__(self, file: NewFile, stem: str) -> None:
        self._file, self._digest = file, _first_digest(stem)

    def add(self, batch: RawBatch) -> None:
        rejects = json.dumps(batch.rejects).encode()
        rows = to_ipc(pa.table({ROW: batch.rows}), compression="zstd")
        records = batch.records
        text = b"" if records is None else to_ipc(pa.table({RECORD: records}), compression="zstd")
        for piece in (to_ipc(batch.table, compression="zstd"), rows, rejects, text):
            self._write(piece)

    def end(self) -> None:
        self._write(b"")

    def _write(self, piece: bytes) -> None:
        self._digest = _next_digest(self._digest, piece)
        try:
            for part in (len(piece).to_bytes(LENGTH_BYTES, "big"), self._digest, piece):
                self._file.write(part)
        except OSError as error:
            # An `OSError` is taken for one of the dataset.
            raise RuntimeError(f"writing the cache: {error}") from error


def read_entry(path: str, stem: str) -> Iterator[RawBatch]:
    """Reads the batches of an entry.

    Args:
        path: Of the entry.
        stem: With which it was written.

    Raises:
        ValueError: If it is damaged or another's, after the batches before that place. A damaged
            file may make the libraries raise any other exception.
    """
    with filesystem.open_raw(path) as file:
        pieces = _pieces(file, _first_digest(stem))
        while table := next(pieces):
            rows, rejects, records = next(pieces), next(pieces), next(pieces)
            yield RawBatch(
                from_ipc(table).combine_chunks(),
                column(from_ipc(rows), ROW).to_numpy().astype(np.int64),
                [Reject(*reject) for reject in json.loads(rejects)],
                column(from_ipc(records), RECORD) if records else None,
            )


def _pieces(file: BinaryIO, digest: bytes) -> Iterator[bytes]:
    while True:
        length = int.from_bytes(file.read(LENGTH_BYTES), "big")
        expected, piece = file.read(DIGEST_BYTES), file.read(length)
        digest = _next_digest(digest, piece)
        if digest != expected:
            raise ValueError("not as it was written")
        yield piece


def _first_digest(stem: str) -> bytes:
    return hashlib.sha256(stem.rpartition("/")[2].encode()).digest()


def _next_digest(digest: bytes, piece: bytes) -> bytes:
    return hashlib.sha256(digest + piece).digest()

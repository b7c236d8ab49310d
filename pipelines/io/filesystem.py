"""Files on any Beam filesystem: written beside and renamed, folders claimed by a marker."""

import json
import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes, MatchResult
from apache_beam.io.filesystems import FileSystems

from pipelines import FULL_DISK
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import MANIFEST, MARKER, claim

STAGING = ".staging"


def join(folder: str, *names: str) -> str:
    """Joins a folder of any filesystem and names below it."""
    return posixpath.join(folder, *names)


def open_raw(path: str) -> BinaryIO:
    """Opens a file for reading as it stands: its suffix decompresses nothing."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """Reads a whole file."""
    with open_raw(path) as file:
        return file.read()


def match(pattern: str) -> list[tuple[str, int]]:
    """Files that match a pattern, sorted: path and size in bytes."""
    results: list[MatchResult] = FileSystems.match([pattern])
    found = results[0].metadata_list
    return sorted((metadata.path, int(metadata.size_in_bytes or 0)) for metadata in found)


@contextmanager
def create(path: str, staging: str) -> Iterator[BinaryIO]:
    """Opens a file for writing; it appears under its name when the block ends without error.

    Args:
        path: Where the file is to appear; an older one of the same name is replaced.
        staging: Folder for the file in the making; the caller removes it at the end.
    """
    beside = join(staging, "writing", f"{uuid.uuid4().hex}-{posixpath.basename(path)}")
    make_folder(posixpath.dirname(path))
    make_folder(posixpath.dirname(beside))
    file = FileSystems.create(
        beside, "application/octet-stream", compression_type=CompressionTypes.UNCOMPRESSED
    )
    try:
        yield file
    except BaseException:
        file.close()
        FileSystems.delete([beside])
        raise
    file.close()
    if FileSystems.exists(path):
        FileSystems.delete([path])
    FileSystems.rename([beside], [path])


def write_bytes(path: str, data: bytes, staging: str) -> None:
    """Writes a whole file; see `create`."""
    with create(path, staging) as file:
        file.write(data)


def write_table(path: str, table: pa.Table, staging: str) -> None:
    """Writes an Arrow IPC file; see `create`."""
    with create(path, staging) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: str) -> pa.Table:
    """Reads what `write_table` wrote, as one chunk a column."""
    return pa.ipc.open_file(pa.py_buffer(read_bytes(path))).read_all().combine_chunks()


def make_folder(path: str) -> None:
    """Makes a folder with its parents; one that exists is left."""
    if not FileSystems.exists(path):
        try:
            FileSystems.mkdirs(path)
        except OSError:
            # Another worker was faster.
            if not FileSystems.exists(path):
                raise


@contextmanager
def output_folder(path: str, *, overwrite: bool) -> Iterator[str]:
    """Claims an output folder of any Beam filesystem for the length of the block.

    The block must write the manifest with `write_manifest` as its last file. The same protocol as
    `tfrs_twotower.schema.folders.output_folder`.

    Args:
        path: The folder; made where missing.
        overwrite: Whether a finished folder may be replaced.

    Yields:
        The path of the staging folder below it, removed when the block ends.

    Raises:
        UsageError: If the folder is finished, or holds things that are not ours.
        UserError: If the folder cannot be written, or the disk becomes full in the block.
    """
    staging = join(path, STAGING)
    try:
        if claim(_names(path), path, overwrite=overwrite) == "clear":
            _write_marker(path)
            _clear(path)
        make_folder(path)
        _write_marker(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    try:
        yield staging
    except Exception as error:
        # Of a worker's error a runner may keep no more than the text.
        if FULL_DISK not in str(error):
            raise
        raise UserError(f"the disk is full: make room for {path}") from error
    if not FileSystems.exists(join(path, MANIFEST)):
        raise RuntimeError(f"{path} was left without a manifest")
    if FileSystems.exists(staging):
        FileSystems.delete([staging])
    FileSystems.delete([join(path, MARKER)])


def write_manifest(folder: str, manifest: dict[str, Any], staging: str) -> None:
    """Writes the manifest, which makes the folder a finished one."""
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    write_bytes(join(folder, MANIFEST), text.encode(), staging)


def _write_marker(folder: str) -> None:
    make_folder(folder)
    with FileSystems.create(join(folder, MARKER)):
        pass


def _names(folder: str) -> set[str]:
    """Names of the files and folders directly below a folder."""
    local = "://" not in folder
    if local:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    prefix = folder.rstrip("/") + "/"
    return {path[len(prefix) :].split("/")[0] for path, _ in match(prefix + "**")}


def _clear(folder: str) -> None:
    """Deletes all but the marker, the manifest first: half deleted must not look finished."""
    names = _names(folder) - {MARKER}
    for name in sorted(names, key=lambda name: name != MANIFEST):
        FileSystems.delete([join(folder, name)])

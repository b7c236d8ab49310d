"""Files on any Beam filesystem. A file is written once, under a name that nothing else writes."""

import atexit
import hashlib
import io
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, MatchResult
from apache_beam.io.filesystems import FileSystems

from pipelines.io import s3_clients
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.errors import first_line

s3_clients.share()

DELETED_AT_ONCE = 500  # Names in one request.
EXTRAS = {"gs": "gcp", "s3": "aws"}  # What to install for a scheme.


def join(folder: str, *names: str) -> str:
    """Joins a folder of any filesystem and names below it."""
    return posixpath.join(folder, *names)


def check_reachable(path: str) -> None:
    """Checks that there is a filesystem for a path, before anything is read or written.

    Raises:
        UserError: If the scheme is not known, or what it needs is not installed.
    """
    scheme = FileSystems.get_scheme(path)
    try:
        FileSystems.get_filesystem(path)
        if scheme is not None and scheme not in EXTRAS:
            FileSystems.exists(path)  # Beam has some that fail at their first use.
    except (ValueError, BeamIOError) as error:
        cure = (
            f"pip install -e '.[{EXTRAS[scheme]}]' in the clone"
            if scheme in EXTRAS
            else "name a local folder, or one on gs:// or s3://"
        )
        raise UserError(f"{path}: cannot read or write {scheme}:// here: {cure}") from error


def open_raw(path: str) -> BinaryIO:
    """Opens a file for reading as it stands: its suffix decompresses nothing."""
    return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_bytes(path: str) -> bytes:
    """Reads a whole file."""
    with open_raw(path) as file:
        return file.read()


def exists(path: str) -> bool:
    """Whether there is a file of this name."""
    return bool(FileSystems.exists(path))


def match(pattern: str) -> list[tuple[str, int]]:
    """Files that match a pattern, sorted: path and size in bytes."""
    results: list[MatchResult] = FileSystems.match([pattern])
    found = results[0].metadata_list
    return sorted((metadata.path, int(metadata.size_in_bytes or 0)) for metadata in found)


def versions(pattern: str) -> dict[str, tuple[int, str]]:
    """Files that match a pattern: size in bytes, and the time of the last change, by path.

    The time is for comparing; "" where the file system does not tell it.
    """
    results: list[MatchResult] = FileSystems.match([pattern])
    found = sorted(results[0].metadata_list, key=lambda metadata: metadata.path)
    return {
        file.path: (int(file.size_in_bytes or 0), str(file.last_updated_in_seconds or ""))
        for file in found
    }


def names(folder: str) -> set[str]:
    """Names of the files and folders directly below a folder; none where it does not exist."""
    if "://" not in folder:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    prefix = folder.rstrip("/") + "/"
    return {path[len(prefix) :].split("/")[0] for path, _ in match(prefix + "**")}


@contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """A local folder with all that is below a folder, for libraries that open paths themselves.

    A local folder is given as it is; the copy of another goes when the block ends.
    """
    if "://" not in folder:
        yield folder
        return
    prefix = folder.rstrip("/") + "/"
    with tempfile.TemporaryDirectory(prefix="twotower-copy-") as copy:
        for path, _ in match(prefix + "**"):
            local = os.path.join(copy, path[len(prefix) :])
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with open_raw(path) as source, open(local, "wb") as target:
                shutil.copyfileobj(source, target)
        yield copy


class NewFile(io.RawIOBase):
    """A file in the making: counts and hashes what is written to it."""

    def __init__(self, path: str) -> None:
        """Names the file."""
        super().__init__()
        self._path = path
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any) -> int:
        """Writes all of some bytes."""
        if self._file is None:
            self._file = _created(self._path)
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._file.write(view.tobytes() if isinstance(data, memoryview) else data)
        self.num_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.num_bytes

    def close(self) -> None:
        """Ends the file: on an object store it appears now."""
        if self.closed:
            return
        super().close()
        if self._file is None and FileSystems.get_filesystem(self._path).has_dirs():
            # Beam's S3 file system cannot write an object without bytes, and none is needed.
            self._file = _created(self._path)
        if self._file is not None:
            self._file.close()

    @property
    def sha256(self) -> str:
        """Hex digest of what was written."""
        return self._hash.hexdigest()


def _created(path: str) -> BinaryIO:
    make_folder(posixpath.dirname(path))
    return FileSystems.create(
        path, "application/octet-stream", compression_type=CompressionTypes.UNCOMPRESSED
    )


@contextmanager
def create(path: str) -> Iterator[NewFile]:
    """Opens a file for writing; of an empty one there is nothing on an object store.

    The name must be one that nothing else ever writes: of a writer that fails a part may stay under
    it, which is harmless as long as no manifest names the file.
    """
    file = NewFile(path)
    try:
        yield file
    finally:
        file.close()


def write_bytes(path: str, data: bytes) -> None:
    """Writes a whole file; see `create`."""
    with create(path) as file:
        file.write(data)


class MaybeWrittenError(UserError):
    """A file was about to take the place of another, and whether it did is unknown."""


def replace(path: str, data: bytes, beside: str) -> None:
    """Writes a file that takes the place of an older one of its name at one instant.

    Args:
        path: The file.
        data: All of it.
        beside: A name that nothing else writes, on the same filesystem.

    Raises:
        MaybeWrittenError: If the last step failed, which may have had its effect all the same.
    """
    has_dirs = FileSystems.get_filesystem(path).has_dirs()
    if has_dirs:
        write_bytes(beside, data)
    try:
        if has_dirs:
            FileSystems.rename([beside], [path])
        else:
            # An object appears, or takes the place of another, when its upload ends.
            write_bytes(path, data)
    except BaseException as error:
        raise MaybeWrittenError(
            f"writing {path} failed, or its answer was lost ({first_line(error)}): look whether it "
            "is there before you run the job again"
        ) from error


def write_table(path: str, table: pa.Table) -> None:
    """Writes an Arrow IPC file; see `create`."""
    with create(path) as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: str) -> pa.Table:
    """Reads what `write_table` wrote, as one chunk a column."""
    return pa.ipc.open_file(pa.py_buffer(read_bytes(path))).read_all().combine_chunks()


def map_table(path: str) -> pa.Table:
    """Memory-maps what `write_table` wrote: the processes of a machine share its pages.

    A file of an object store is first copied to the local disk, once a machine.
    """
    return pa.ipc.open_file(pa.memory_map(_local_file(path))).read_all().combine_chunks()


def _local_file(path: str) -> str:
    if "://" not in path:
        return path
    name = f"twotower-{hashlib.sha256(path.encode()).hexdigest()}"
    local = Path(tempfile.gettempdir(), name)
    if not local.exists():
        with tempfile.TemporaryDirectory(prefix="twotower-copy-") as folder:
            copy = Path(folder, name)
            with open_raw(path) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
            copy.replace(local)
        # Processes that have mapped it by then keep it.
        atexit.register(local.unlink, missing_ok=True)
    return str(local)


def make_folder(path: str) -> None:
    """Makes a folder with its parents; one that exists is left."""
    if not FileSystems.exists(path):
        try:
            FileSystems.mkdirs(path)
        except OSError:
            # Another worker was faster.
            if not FileSystems.exists(path):
                raise


def delete(paths: Iterable[str]) -> None:
    """Deletes files."""
    listed = list(paths)
    for start in range(0, len(listed), DELETED_AT_ONCE):
        FileSystems.delete(listed[start : start + DELETED_AT_ONCE])


def delete_below(folder: str) -> None:
    """Deletes a folder with all that is below it."""
    if not FileSystems.get_filesystem(folder).has_dirs():
        delete(path for path, _ in match(join(folder, "**")))
    elif FileSystems.exists(folder):
        FileSystems.delete([folder])

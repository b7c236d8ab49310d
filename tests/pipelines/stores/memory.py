"""An object store in memory: what Beam's GCS and S3 file systems do, with a log and with faults.

There are no folders, only objects whose names hold slashes; `exists` knows objects alone, `delete`
of a name without a trailing slash is not one of a prefix, a renaming is a copy and a deletion, and
an object is replaced whole when its writer closes, by whoever closes last. A writer that a failing
`with` block closes publishes what it was given so far, as those of S3 do. `test_stores.py` holds
this beside the real classes.

Beam finds the file system by its scheme, in this process alone: for runners whose workers are
threads.
"""

import io
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from apache_beam.io.filesystem import (
    BeamIOError,
    CompressedFile,
    CompressionTypes,
    FileMetadata,
    FileSystem,
)

PREFIX = "mem://"
# What changes the store, and what only looks at it.
CREATE, WRITE, CLOSE, COPY, DELETE = "create", "write", "close", "copy", "delete"
OPEN, READ, EXISTS, METADATA, LIST = "open", "read", "exists", "metadata", "list"
CHANGES = frozenset({CREATE, WRITE, CLOSE, COPY, DELETE})
BEFORE, AFTER = "before", "after"
Result = TypeVar("Result")


class Unavailable(Exception):
    """The store does not answer for the moment; as with GCS, this is no `OSError`."""


class Operation(NamedTuple):
    """One request to the store."""

    number: int  # From 0 on, in the order of their beginning.
    kind: str
    path: str
    who: str  # Name of the thread.


class Blob(NamedTuple):
    """An object: a name's content since it was last written."""

    data: bytes
    generation: int
    updated: float


class Store:
    """All objects, by full name.

    Attributes:
        blobs: The objects.
        log: Every operation so far.
        hook: Called with each operation and with `BEFORE` or `AFTER` it takes effect, outside of
            the lock: it may raise, and it may use the store.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self.blobs: dict[str, Blob] = {}
        self.log: list[Operation] = []
        self.hook: Callable[[Operation, str], None] | None = None
        self._generation = 0
        self._lock = threading.RLock()

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects, sorted."""
        with self._lock:
            return sorted(name for name in self.blobs if name.startswith(prefix))

    def do(self, kind: str, path: str, effect: Callable[[], Result]) -> Result:
        """Carries one operation out."""
        with self._lock:
            operation = Operation(len(self.log), kind, path, threading.current_thread().name)
            self.log.append(operation)
        hook = self.hook
        if hook:
            hook(operation, BEFORE)
        with self._lock:
            result = effect()
        if hook:
            hook(operation, AFTER)
        return result

    def get(self, path: str) -> Blob:
        """An object.

        Raises:
            FileNotFoundError: If there is none of this name.
        """
        if path not in self.blobs:
            raise FileNotFoundError(f"no object {path}")
        return self.blobs[path]

    def put(self, path: str, data: bytes) -> None:
        """Replaces an object as a whole."""
        self._generation += 1
        self.blobs[path] = Blob(data, self._generation, time.time())


STORE = Store()


class _Writer(io.RawIOBase):
    def __init__(self, path: str) -> None:
        self._path = path
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        part = bytes(data)
        STORE.do(WRITE, self._path, lambda: self._parts.append(part))
        return len(part)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        STORE.do(CLOSE, self._path, lambda: STORE.put(self._path, b"".join(self._parts)))


class _Reader(io.RawIOBase):
    def __init__(self, path: str, data: bytes) -> None:
        self._path = path
        self._buffer = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._buffer.seek(offset, whence)

    def tell(self) -> int:
        return self._buffer.tell()

    def readinto(self, into) -> int:
        return STORE.do(READ, self._path, lambda: self._buffer.readinto(into))


class MemoryFileSystem(FileSystem):
    """The store as a Beam file system."""

    @classmethod
    def scheme(cls) -> str:
        return PREFIX.removesuffix("://")

    def join(self, basepath: str, *paths: str) -> str:
        for path in paths:
            basepath = basepath.rstrip("/") + "/" + path.lstrip("/")
        return basepath

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.removeprefix(PREFIX).rpartition("/")
        return PREFIX + head, tail

    def mkdirs(self, path: str) -> None:
        pass

    def has_dirs(self) -> bool:
        return False

    def create(
        self, path, mime_type="application/octet-stream", compression_type=CompressionTypes.AUTO
    ):
        STORE.do(CREATE, path, lambda: None)
        # Beam's writers gather megabytes before they send a part.
        writer = io.BufferedWriter(_Writer(path), buffer_size=1 << 16)
        return self._unpacked(writer, path, compression_type)

    def open(
        self, path, mime_type="application/octet-stream", compression_type=CompressionTypes.AUTO
    ):
        data = STORE.do(OPEN, path, lambda: STORE.get(path).data)
        reader = io.BufferedReader(_Reader(path, data), buffer_size=1 << 16)
        return self._unpacked(reader, path, compression_type)

    def _unpacked(self, file, path, compression_type):
        kind = self._get_compression_type(path, compression_type)
        if kind == CompressionTypes.UNCOMPRESSED:
            return file
        return CompressedFile(file, compression_type=kind)

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        def found():
            return [_metadata(name) for name in STORE.names(dir_or_prefix)]

        try:
            yield from STORE.do(LIST, dir_or_prefix, found)
        except Exception as error:
            raise BeamIOError("List operation failed", {dir_or_prefix: error}) from error

    def exists(self, path: str) -> bool:
        return STORE.do(EXISTS, path, lambda: path in STORE.blobs)

    def metadata(self, path: str) -> FileMetadata:
        try:
            return STORE.do(METADATA, path, lambda: _metadata(path))
        except Exception as error:
            raise BeamIOError("Metadata operation failed", {path: error}) from error

    def size(self, path: str) -> int:
        return self.metadata(path).size_in_bytes

    def last_updated(self, path: str) -> float:
        return self.metadata(path).last_updated_in_seconds

    def checksum(self, path: str) -> str:
        return STORE.do(METADATA, path, lambda: f"{zlib.crc32(STORE.get(path).data):08x}")

    def copy(self, source_file_names, destination_file_names) -> None:
        failed = {}
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            # A folder, to Beam, is a name that ends with a slash.
            is_folder = source.endswith("/")
            for name in STORE.names(source) if is_folder else [source]:
                try:
                    self._copy(name, target + name.removeprefix(source))
                except Exception as error:
                    failed[source, target] = error
        if failed:
            raise BeamIOError("Copy operation failed", failed)

    def _copy(self, source: str, target: str) -> None:
        STORE.do(COPY, target, lambda: STORE.put(target, STORE.get(source).data))

    def rename(self, source_file_names, destination_file_names) -> None:
        failed = {}
        for source, target in zip(source_file_names, destination_file_names, strict=True):
            try:
                self._copy(source, target)
                self._delete(source)
            except Exception as error:
                failed[source, target] = error
        if failed:
            raise BeamIOError("Rename operation failed", failed)

    def delete(self, paths) -> None:
        failed = {}
        for path in paths:
            is_folder = path.endswith("/")
            pattern = path + "**" if is_folder else path
            for found in self.match([pattern])[0].metadata_list:
                try:
                    self._delete(found.path)
                except Exception as error:
                    # Of a whole folder Beam's GCS file system logs what it could not delete.
                    if not is_folder:
                        failed[found.path] = error
        if failed:
            raise BeamIOError("Delete operation failed", failed)

    def _delete(self, name: str) -> None:
        STORE.do(DELETE, name, lambda: STORE.blobs.pop(name, None))


def _metadata(name: str) -> FileMetadata:
    blob = STORE.get(name)
    return FileMetadata(name, len(blob.data), blob.updated)

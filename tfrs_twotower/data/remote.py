"""Folders on an object store: prepared ones are read through local copies, a file is written.

TensorFlow reads no `s3://`, so every file is copied, when it is first needed, to a temporary folder
that lives as long as the data that are read from it.
"""

import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.folders import MANIFEST, check_manifest

# `pathlib` leaves one slash of a URL.
URL = re.compile(r"^(gs|s3):/+")
COPY_BYTES, COPIES_AT_ONCE = 1 << 20, 8
GCS_RETRY_SECONDS = 60


def url_of(folder: str | Path) -> str | None:
    """The URL of a folder on an object store; None for a local one."""
    return URL.sub(r"\1://", str(folder)) if URL.match(str(folder)) else None


def _arrow_uri(url: str) -> str:
    """What Arrow is told of a URL."""
    if not url.startswith("gs://"):
        return url
    # By default Arrow asks for an account, of which an emulator knows none, for 15 minutes.
    account = "anonymous@" if os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT") else ""
    return f"gs://{account}{url.removeprefix('gs://')}?retry_limit_seconds={GCS_RETRY_SECONDS}"


def _open(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URL, and the path there."""
    try:
        files, path = pyarrow.fs.FileSystem.from_uri(_arrow_uri(url))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"cannot open {url}: {first_line(error)}") from error
    return files, path


@contextmanager
def only_file(folder: str | Path, name: str) -> Iterator[Path]:
    """The one file of a folder, local or on an object store, written whole or not at all.

    It takes the place of an earlier one.

    Args:
        folder: The folder; made where missing.
        name: Of the file.

    Yields:
        Where to write: the file appears under its name when the block has ended well.

    Raises:
        UsageError: If the folder has other entries.
        UserError: If it cannot be written.
    """
    url = url_of(folder)
    shown = (url or str(folder)).rstrip("/")
    if url is None:
        files, root = pyarrow.fs.LocalFileSystem(), os.path.abspath(folder)
    else:
        files, root = _open(shown)
    beside = f".{name}.tmp"
    try:
        selector = pyarrow.fs.FileSelector(root, allow_not_found=True)
        others = {entry.base_name for entry in files.get_file_info(selector)} - {name, beside}
        if others:
            raise UsageError(f"{shown} holds other files ({min(others)}): name another folder")
        if url is None:
            os.makedirs(root, exist_ok=True)
            yield Path(root, beside)
            os.replace(Path(root, beside), Path(root, name))
        else:
            # Through a local file: a stream to a store that is closed by an error would leave half.
            with tempfile.TemporaryDirectory(prefix="twotower-") as local:
                yield Path(local, name)
                pyarrow.fs.copy_files(
                    str(Path(local, name)),
                    f"{root}/{name}",
                    source_filesystem=pyarrow.fs.LocalFileSystem(),
                    destination_filesystem=files,
                )
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot write {shown}/{name}: {first_line(error)}") from error


class RemoteFolder:
    """A finished folder on an object store.

    Credentials and endpoints are taken from where Arrow looks for them: Google's application
    default credentials and `CLOUD_STORAGE_EMULATOR_ENDPOINT`; AWS's configuration files, its
    variables `AWS_ACCESS_KEY_ID` and so on, and `AWS_ENDPOINT_URL`.
    """

    def __init__(self, url: str) -> None:
        """Opens the folder.

        Raises:
            UserError: If there is no such store.
        """
        self.url = url.rstrip("/")
        self._files, self._root = _open(self.url)
        self._empty: set[str] = set()
        self._copy = Path(tempfile.mkdtemp(prefix="twotower-copy-"))
        weakref.finalize(self, shutil.rmtree, self._copy, ignore_errors=True)

    def read_manifest(self, *, kind: str, made_by: str) -> dict[str, Any]:
        """The manifest of the folder; see `folders.read_manifest`."""
        try:
            [path] = self.local_files([MANIFEST])
        except UserError as error:
            raise UserError(f"{error}\nMake the folder with `{made_by}`.") from error
        manifest = json.loads(path.read_text("utf-8"))
        manifest = check_manifest(manifest, self.url, kind=kind, made_by=made_by)
        groups = manifest.get("files", {}).values()
        self._empty = {file["path"] for group in groups for file in group if not file["bytes"]}
        return manifest

    def local_files(self, paths: Sequence[str]) -> list[Path]:
        """Local copies of files, by their paths from the folder.

        Raises:
            UserError: If one cannot be read.
        """
        with ThreadPoolExecutor(COPIES_AT_ONCE) as pool:
            return list(pool.map(self._local, paths))

    def _local(self, path: str) -> Path:
        copy = self._copy / path
        if copy.exists():
            return copy
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path in self._empty:
            # The store need not hold an object for it.
            copy.touch()
            return copy
        beside = copy.with_name(copy.name + ".tmp")
        try:
            with (
                self._files.open_input_stream(f"{self._root}/{path}", compression=None) as source,
                beside.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, COPY_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"cannot read {self.url}/{path}: {first_line(error)}") from error
        beside.replace(copy)
        return copy

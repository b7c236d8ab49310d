"""The working folder of `twotower run`: records of its steps, and a lock.

`twotower-run.json` holds, by step, the inputs that the step was begun with and a digest of what it
left. A step is due when one of the two has changed since.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tfrs_twotower.schema import UserError, differences
from tfrs_twotower.schema.folders import MARKER, write_json

RECORDS_FILE, LOCK_FILE = "twotower-run.json", ".twotower-run.lock"
MAX_SHOWN = 3
# Small files that describe a folder; of the others only the size goes into its digest.
READ_WHOLE = (".json", ".yaml")


class Record(NamedTuple):
    """What is known of a step.

    `inputs`: what it was begun with, as JSON holds it; `output`: the digest of what it left, None
    while it has not ended.
    """

    inputs: dict[str, Any]
    output: str | None


class Records:
    """The records of a working folder, by step."""

    def __init__(self, workdir: Path) -> None:
        """Reads them.

        Raises:
            UserError: If they cannot be read.
        """
        self._path = workdir / RECORDS_FILE
        try:
            text = self._path.read_text(encoding="utf-8") if self._path.exists() else "{}"
            self._records = {name: Record(**record) for name, record in json.loads(text).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{self._path} is damaged: remove it, and run again") from error

    def __getitem__(self, step: str) -> Record | None:
        """What is known of a step; None: it was never begun."""
        return self._records.get(step)

    def __setitem__(self, step: str, record: Record) -> None:
        """Writes down what is known of a step, as a whole or not at all."""
        self._records[step] = record
        write_json(self._path, {name: one._asdict() for name, one in self._records.items()})


def why_due(record: Record | None, inputs: dict[str, Any], found: Sequence[str]) -> str | None:
    """Why a step must run; None: it need not.

    Args:
        record: What is known of it.
        inputs: What it would be begun with now.
        found: Digests of the finished outputs that are there.
    """
    if record is None:
        return "not made yet"
    if changed := [path for path, _, _ in differences(record.inputs, inputs)]:
        more = f" and {len(changed) - MAX_SHOWN} more" if len(changed) > MAX_SHOWN else ""
        return f"changed: {', '.join(changed[:MAX_SHOWN])}{more}"
    if record.output is None:
        return "was interrupted"
    if record.output not in found:
        return "its output was changed" if found else "its output is gone"
    return None


def as_json(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs as they are read back, to be compared with those of a record."""
    return dict(json.loads(json.dumps(inputs)))


def file_digests(folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the files of a folder that fit some patterns, by name.

    Raises:
        UserError: If a file cannot be read.
    """
    digests = {}
    for path in _files(folder, patterns):
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        digests[path.relative_to(folder).as_posix()] = digest
    return digests


def folder_digest(folder: Path, closed_by: str, patterns: Iterable[str] = ("**/*",)) -> str | None:
    """A digest of a finished folder: names and sizes of its files, contents of JSON and YAML.

    Args:
        folder: The folder.
        closed_by: The file that is written last; without it the folder is not finished.
        patterns: Of the files that belong to it.

    Returns:
        SHA-256; None: the folder is not there or not finished.
    """
    if not (folder / closed_by).is_file() or (folder / MARKER).exists():
        return None
    digest = hashlib.sha256()
    for path in _files(folder, patterns):
        is_read = path.suffix in READ_WHOLE
        content = path.read_bytes() if is_read else str(path.stat().st_size).encode()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return digest.hexdigest()


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


@contextmanager
def locked(workdir: Path) -> Iterator[int]:
    """Keeps other runs out of a working folder, which is made where missing.

    Yields:
        The descriptor that holds the lock. A process that inherits it holds the lock as well:
        should this one be killed, no other run enters before its step has ended, too.

    Raises:
        UserError: If another run is in it, or it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK_FILE).open("w")
    except OSError as error:
        raise UserError(f"cannot write {workdir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another `twotower run`, `demo` or `backtest` is at work in {workdir}: wait for "
                "its end, or name another --workdir"
            ) from error
        yield file.fileno()

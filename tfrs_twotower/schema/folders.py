"""Output folders that are whole or recognisably not: a marker first, the manifest last.

A folder in the making holds `.twotower-incomplete`; the manifest is written by rename as the last
file, then the marker goes. So a killed job leaves a marker and no manifest, and the next one clears
the folder.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tfrs_twotower.schema.errors import Parameter, UsageError, UserError

MARKER = ".twotower-incomplete"
MANIFEST = "manifest.json"
# A run of a data job writes into a folder of its own, below its output folder.
RUN_PREFIX = "run-"
RUN_FOLDER = re.compile(r"run-[0-9a-f]{32}")
FULL_DISK = os.strerror(errno.ENOSPC)


@contextmanager
def tells_full_disk(folder: str | Path) -> Iterator[None]:
    """Makes the error of a full disk one that a user can act on.

    The system's words are all that such errors of Python, TensorFlow and Arrow have in common, and
    all that a Beam runner may keep of a worker's.

    Args:
        folder: What the block writes.

    Raises:
        UserError: If the disk has become full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if FULL_DISK in str(error):
            raise UserError(f"the disk is full: make room for {folder}") from error
        raise


def claim(
    names: set[str], folder: str, *, overwrite: bool, resume: bool = False
) -> Literal["new", "clear", "keep"]:
    """Decides what may be done with an output folder.

    Args:
        names: The entries of the folder; empty where it does not exist.
        folder: Its path, for messages.
        overwrite: Whether the user allows a finished folder to be replaced.
        resume: Whether to go on with an unfinished folder.

    Returns:
        "new": nothing there; "clear": replace what is there; "keep": go on with what is there.

    Raises:
        UsageError: If the folder is finished, or holds files of others.
    """
    if not names:
        return "new"
    if MARKER in names:
        return "keep" if resume else "clear"
    if MANIFEST not in names:
        raise UsageError(f"{folder} is not empty and no output of twotower: name another folder")
    if overwrite:
        return "clear"
    raise UsageError(
        f"{folder} is finished: pass ",
        Parameter("overwrite", True),
        " to replace it, or name another folder",
    )


@contextmanager
def output_folder(
    path: str | Path, *, overwrite: bool = False, resume: bool = False
) -> Iterator[Path]:
    """Claims a local output folder for the length of the block.

    The block must write the manifest with `write_json` as its last file; only then the marker is
    removed.

    Args:
        path: The folder; made with its parents where missing.
        overwrite: See `claim`.
        resume: See `claim`.

    Yields:
        The folder, emptied unless it is resumed.

    Raises:
        UsageError: See `claim`.
        UserError: If the folder cannot be written, or the disk becomes full in the block.
    """
    folder = Path(path)
    try:
        names = set(os.listdir(folder)) if folder.exists() else set()
        if claim(names, str(folder), overwrite=overwrite, resume=resume) == "clear":
            # The manifest goes first: a folder half deleted must not look finished.
            (folder / MARKER).touch()
            (folder / MANIFEST).unlink(missing_ok=True)
            for entry in folder.iterdir():
                if entry.name != MARKER:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    with tells_full_disk(folder):
        yield folder
    if not (folder / MANIFEST).exists():
        raise RuntimeError(f"{folder} was left without a manifest")
    (folder / MARKER).unlink(missing_ok=True)


def read_manifest(path: str | Path, *, kind: str, made_by: str) -> dict[str, Any]:
    """Reads the manifest of a finished folder.

    Args:
        path: The folder.
        kind: What the folder must be: "prepared", "run", ...
        made_by: The command that makes such a folder, for messages.

    Returns:
        The manifest.

    Raises:
        UserError: If the folder is missing, unfinished, or of another kind.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: make it with `{made_by}`")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        begun = (folder / MARKER).exists() or any(folder.glob(f"{RUN_PREFIX}*"))
        state = "unfinished" if begun else f"not a {kind} folder"
        raise UserError(f"{folder} is {state}: make it with `{made_by}`") from error
    return check_manifest(manifest, folder, kind=kind, made_by=made_by)


def check_manifest(
    manifest: object, folder: str | Path, *, kind: str, made_by: str
) -> dict[str, Any]:
    """Checks that a manifest is of the kind that is needed; see `read_manifest`."""
    found = manifest.get("kind") if isinstance(manifest, dict) else None
    if found is None:
        raise UserError(f"{folder} is not a {kind} folder: make it with `{made_by}`")
    if found != kind:
        raise UserError(
            f"{folder} is a {found} folder, expected a {kind} folder: make one with `{made_by}`"
        )
    assert isinstance(manifest, dict)
    return manifest


def write_json(path: Path, value: object) -> None:
    """Writes JSON beside its place, then renames it there."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(path)

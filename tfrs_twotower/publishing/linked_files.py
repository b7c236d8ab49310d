"""Files of several models or versions that hold the same bytes: one file under several names.

A published file is never written to again, and lasts until the last version that names it is
removed.
"""

import filecmp
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def link(source: str | Path, target: str | Path) -> None:
    """The same file twice; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def link_same(known: Iterable[Path], folder: Path) -> None:
    """Replaces the files of a folder by hard links to those known that hold the same bytes.

    Args:
        known: Files, by any names.
        folder: Of files alone.
    """
    known = list(known)
    for path in folder.iterdir():
        same = next((one for one in known if filecmp.cmp(one, path, shallow=False)), None)
        if same is not None:
            linked = path.with_name(f"{path.name}.linked")
            with suppress(OSError):  # Where there are no hard links, it stays a copy.
                os.link(same, linked)
                linked.replace(path)

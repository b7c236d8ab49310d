"""The memory of this process, as Linux tells it."""

import re
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak() -> int:
    """The most memory that this process has held, in bytes, since `forget_peak`."""
    # Not that of `getrusage`: a process begins with the peak of the one that started it.
    return _bytes("VmHWM")


def held() -> int:
    """The memory that this process holds now, in bytes."""
    return _bytes("VmRSS")


def forget_peak() -> None:
    """Makes what is held now the peak."""
    (_PROCESS / "clear_refs").write_text("5")


def _bytes(name: str) -> int:
    status = (_PROCESS / "status").read_text()
    return int(re.search(rf"{name}:\s+(\d+)", status)[1]) * 1024

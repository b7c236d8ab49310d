"""What a process costs, from its start to its end."""

import os
import subprocess
import sys
import time
from typing import NamedTuple

from _harness import ROOT

TWOTOWER = ("-m", "tfrs_twotower.cli")


class Cost(NamedTuple):
    """Of a process and those that it waited for; seconds and bytes, the peak of the largest."""

    wall: float
    processor: float
    peak: float


def environment() -> dict[str, str]:
    """That of this process, with this project first and Keras 2."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "TF_USE_LEGACY_KERAS": "1"}


def whole(*words: str) -> Cost:
    """Runs Python with arguments, silently.

    Raises:
        SystemExit: If it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python {' '.join(words)} failed")
    wall = time.perf_counter() - start
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

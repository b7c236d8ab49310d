"""`twotower` commands in processes of their own, as a user would type them, and what they take."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tfrs_twotower.cli.output import print_progress

_STDERR = 2


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    peak_bytes: int


class Command:
    """A running command."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        keeps_open: Sequence[int] = (),
        results_to_stderr: bool = False,
    ) -> None:
        """Shows the command on stderr and starts it.

        Args:
            words: The command line after `twotower`.
            keeps_open: Descriptors that the process inherits.
            results_to_stderr: Whether its results go to stderr, too.
        """
        print_progress(f"$ twotower {shlex.join(words)}")
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tfrs_twotower.cli", *words],
            pass_fds=keeps_open,
            stdout=_STDERR if results_to_stderr else None,
        )

    def wait(self) -> tuple[int, Cost]:
        """Waits for its end, which comes soon if the waiting is interrupted.

        Returns:
            The exit code, negative for a signal, and what it took.
        """
        try:
            _, status, usage = os.wait4(self._process.pid, 0)
        except BaseException:
            self.stop()
            raise
        self._process.returncode = os.waitstatus_to_exitcode(status)
        # Linux counts in kilobytes.
        cost = Cost(time.monotonic() - self._started_s, usage.ru_maxrss * 1024)
        return self._process.returncode, cost

    def stop(self) -> Cost:
        """Ends it, if it has not ended, and waits for that."""
        os.kill(self._process.pid, signal.SIGTERM)  # Popen would take its end from `wait4`.
        return self.wait()[1]

    def has_ended(self) -> bool:
        """Whether it has ended; what it took is still to be had of `wait`."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def cpu_ticks(self) -> int:
        """Processor time taken so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])  # utime and stime, see proc(5).


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Lets SIGTERM unwind the block, so that the processes started in it are stopped as well."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""How many requests run at once, and how many may wait."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import DeadlineError, OverloadedError


class Admission:
    """Runs a bounded number of requests and lets a bounded number wait; the rest is refused.

    A queue without an end turns a burst into ever longer answers and ever more memory; a refusal
    tells the caller at once. Thread-safe.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        """Opens the door.

        Args:
            max_running: Requests at work at the same time, 1 or more.
            max_waiting: Requests that wait for a place, 0 or more.
        """
        self._running = threading.Semaphore(max_running)
        self._lock = threading.Lock()
        self._places = max_running + max_waiting
        self._taken = 0

    @contextmanager
    def enter(self, timeout_s: float | None) -> Iterator[None]:
        """Waits for a place and holds it for the length of the block.

        Args:
            timeout_s: How long the caller still waits for the answer; None: for ever.

        Raises:
            OverloadedError: If too many wait already.
            DeadlineError: If no place came free in time.
        """
        with self._lock:
            if self._taken >= self._places:
                raise OverloadedError(
                    f"{self._taken} requests are running or waiting, the limit: try again later"
                )
            self._taken += 1
        try:
            if not self._running.acquire(timeout=timeout_s):
                raise DeadlineError("the deadline passed while the request waited for its turn")
            try:
                yield
            finally:
                self._running.release()
        finally:
            with self._lock:
                self._taken -= 1

    @property
    def num_taken(self) -> int:
        """Requests running or waiting now."""
        with self._lock:
            return self._taken

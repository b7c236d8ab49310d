"""Runs signatures for many callers: a bounded number at once, and a bounded number that wait.

A queue without an end turns a burst into ever longer answers and ever more memory; a refusal tells
the caller at once. Nobody waits for a batch to fill: where requests are merged, those that arrive
while all threads are at work form the next runs. A server at rest answers as if there were no
batching.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from serving.batching import BatchingOptions, Outputs, Task, kind_of, run_together
from serving.errors import STOPPING, OverloadedError, UnavailableError
from serving.loading import Servable
from serving.tensors import Array


@dataclass(eq=False)
class _Request:
    """A task, and who waits for what is made of its outputs."""

    task: Task
    respond: Callable[[Outputs], Any]
    answer: Future[Any] = field(default_factory=Future)
    arrived_s: float = field(default_factory=time.perf_counter)

    def is_still_wanted(self) -> bool:
        """Marks the request as running, unless its caller has given up."""
        return self.answer.set_running_or_notify_cancel()

    def settle(self, outcome: Outputs | Exception) -> None:
        """Gives the caller the answer, or the reason why there is none."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            response = self.respond(outcome)
        except Exception as error:
            self.answer.set_exception(error)
        else:
            self.answer.set_result(response)


class Runner:
    """Threads that run what is submitted, first come, first served. Thread-safe."""

    def __init__(
        self,
        num_threads: int,
        max_requests: int,
        batching: BatchingOptions | None = None,
        has_run: Callable[[Task, float, float], None] = lambda *_: None,
    ) -> None:
        """Starts threads as they are needed; `close` ends them.

        Args:
            num_threads: Runs at the same time, 1 or more.
            max_requests: Requests that run or wait; more are refused.
            batching: How waiting requests are merged into one run; None: each is run by itself.
            has_run: Told of each task that has run the seconds that it waited, and those of its
                run, before it is answered.
        """
        self._has_run = has_run
        self._num_threads, self._max_requests, self._batching = num_threads, max_requests, batching
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="runner")
        self._lock = threading.Lock()  # Guards what follows.
        self._waiting: deque[_Request] = deque()
        self._num_busy = 0
        self._num_requests = 0
        self._is_closed = False

    def submit(
        self,
        servable: Servable,
        signature: str,
        inputs: Mapping[str, Array],
        respond: Callable[[Outputs], Any],
    ) -> Future[Any]:
        """Queues a signature to be run.

        Args:
            servable: See `Servable.run`.
            signature: See `Servable.run`.
            inputs: See `Servable.run`.
            respond: Makes the answer of the outputs, in the thread that ran the signature.

        Returns:
            What `respond` will return, or the exception of it or of `Servable.run`. Whoever stops
            waiting cancels it: it is not run, if it has not begun.

        Raises:
            OverloadedError: If too many run or wait already.
            UnavailableError: If it has been closed.
        """
        kind = (
            None if self._batching is None else kind_of(servable, signature, inputs, self._batching)
        )
        request = _Request(Task(servable, signature, inputs, kind), respond)
        with self._lock:
            if self._is_closed:
                raise UnavailableError(STOPPING)
            if self._num_requests >= self._max_requests:
                raise OverloadedError(
                    f"{self._num_requests} requests are running or waiting, the limit: "
                    "try again later"
                )
            self._num_requests += 1
            self._waiting.append(request)
            request.answer.add_done_callback(self._has_left)
            if self._num_busy < self._num_threads:
                self._num_busy += 1
                self._threads.submit(self._work)
        return request.answer

    @property
    def num_requests(self) -> int:
        """Requests running or waiting now."""
        with self._lock:
            return self._num_requests

    def close(self) -> None:
        """Waits for what has been submitted and ends the threads."""
        with self._lock:
            self._is_closed = True
        self._threads.shutdown()

    def _work(self) -> None:
        while batch := self._next_batch():
            started_s = time.perf_counter()
            outcomes = run_together([request.task for request in batch])
            run_s = time.perf_counter() - started_s
            for request, outcome in zip(batch, outcomes, strict=True):
                self._has_run(request.task, started_s - request.arrived_s, run_s)
                request.settle(outcome)

    def _next_batch(self) -> list[_Request]:
        """Takes the request that waits longest and those to be merged with it."""
        with self._lock:
            while self._waiting:
                first = self._waiting.popleft()
                if first.is_still_wanted():
                    return [first, *self._companions(first)]
            self._num_busy -= 1
            return []

    def _companions(self, first: _Request) -> list[_Request]:
        if self._batching is None or first.task.kind is None:
            return []
        room = self._batching.max_batch_size - first.task.num_rows
        taken: list[_Request] = []
        others: deque[_Request] = deque()
        for request in self._waiting:
            if request.task.kind != first.task.kind or request.task.num_rows > room:
                others.append(request)
            elif request.is_still_wanted():
                taken.append(request)
                room -= request.task.num_rows
        self._waiting = others
        return taken

    def _has_left(self, _: Future[Any]) -> None:
        with self._lock:
            self._num_requests -= 1

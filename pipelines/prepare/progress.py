"""How far a running job is, told by its own counters.

On a runner that answers while the job runs, the counters are Beam's metrics; the runner in this
process answers at its end only, so its workers count here as well.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from apache_beam.metrics.metric import Metrics, MetricsFilter

NAMESPACE = "progress"
CHUNKS, ROWS, SORTED, WRITTEN = "chunks", "rows", "sorted", "written"
INTERVAL_S = 0.5

_in_this_process: Counter[str] = Counter()


def count(name: str, number: int = 1) -> None:
    """Counts what is done; called by workers."""
    Metrics.counter(NAMESPACE, name).inc(number)
    _in_this_process[name] += number


def describe(done: Mapping[str, int], num_chunks: int, num_partitions: int, seconds: float) -> str:
    """One line: the stage, and what is done of it.

    Args:
        done: What was counted, by name.
        num_chunks: Parts of files to read.
        num_partitions: Partitions of queries.
        seconds: Since the start.
    """
    if done.get(WRITTEN):
        return f"writing examples: {done[WRITTEN]} of up to {num_partitions} partitions"
    if done.get(SORTED):
        return f"sorting: {done[SORTED]} of up to {num_partitions} partitions"
    rows = done.get(ROWS, 0)
    rate = rows / max(seconds, 1e-9)
    return (
        f"reading: {done.get(CHUNKS, 0)} of {num_chunks} parts, {rows:,} rows, {rate:,.0f} rows/s"
    )


class Watch:
    """A running pipeline, looked at."""

    def __init__(self) -> None:
        """Begins to count anew."""
        self.result: Any = None  # Of the pipeline, as soon as there is one.
        _in_this_process.clear()

    def done(self) -> Mapping[str, int]:
        """What was counted, by name."""
        if self.result is None:
            return dict(_in_this_process)
        found = self.result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
        return {metric.key.metric.name: metric.result for metric in found["counters"]}


@contextmanager
def watching(num_chunks: int, num_partitions: int, show: Callable[[str], None]) -> Iterator[Watch]:
    """Tells twice a second how far a pipeline is, as long as the block runs.

    Args:
        num_chunks: Parts of files to read.
        num_partitions: Partitions of queries.
        show: Is told a line, in a thread of its own.

    Yields:
        The watch, to be given the result of a pipeline that has been started.
    """
    ended = threading.Event()
    start = time.monotonic()
    watch = Watch()

    def tell() -> None:
        while not ended.wait(INTERVAL_S):
            seconds = time.monotonic() - start
            state = describe(watch.done(), num_chunks, num_partitions, seconds)
            show(f"{seconds:6.0f} s  {state}")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield watch
    finally:
        ended.set()
        teller.join()

"""How far a running job is, told from what its workers leave in the staging folder.

Works on every runner: the launcher only looks at files.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.prepare.dataset_files import Chunk
from tfrs_twotower.schema import prepared as layout

READ = "read"
LOCAL_INTERVAL_S, REMOTE_INTERVAL_S = 0.5, 15.0


def note_read(staging: str, chunk: Chunk, num_read: int) -> None:
    """Leaves word that a chunk has been read; called by workers."""
    path = join(staging, READ, f"{chunk.name}-{chunk.number}-{num_read}")
    filesystem.write_bytes(path, b"", staging)


class Snapshot:
    """How far a job is at one moment."""

    def __init__(self, staging: str, output: str) -> None:
        """Looks at the folders of a job."""
        read = [path.rsplit("-", 1)[1] for path, _ in filesystem.match(join(staging, READ, "*"))]
        self.num_chunks = len(read)
        self.num_rows = sum(map(int, read))
        self.num_staged = _count(join(staging, "partitions", "*-events.arrow"))
        self.num_written = _count(join(output, f"{layout.KNOWN_POSITIVES}-*"))

    def describe(self, num_chunks: int, num_partitions: int, elapsed_s: float) -> str:
        """One line: the stage, and what is done of it."""
        if self.num_written:
            return f"writing examples: {self.num_written} of up to {num_partitions} partitions"
        if self.num_staged:
            return f"sorting: {self.num_staged} of up to {num_partitions} partitions"
        rate = self.num_rows / max(elapsed_s, 1e-9)
        return (
            f"reading: {self.num_chunks} of {num_chunks} parts, {self.num_rows:,} rows, "
            f"{rate:,.0f} rows/s"
        )


@contextmanager
def shown(staging: str, output: str, num_chunks: int, num_partitions: int) -> Iterator[None]:
    """Shows on stderr how far a job is, as long as the block runs.

    Args:
        staging: The staging folder.
        output: The prepared folder.
        num_chunks: Parts of files to read.
        num_partitions: Partitions of queries.
    """
    done = threading.Event()
    start = time.monotonic()
    console = Console(stderr=True)
    interval_s = REMOTE_INTERVAL_S if "://" in output else LOCAL_INTERVAL_S

    def show(live: Live) -> None:
        while not done.wait(interval_s):
            elapsed_s = time.monotonic() - start
            state = Snapshot(staging, output).describe(num_chunks, num_partitions, elapsed_s)
            live.update(Text(f"{elapsed_s:6.0f} s  {state}"))

    with Live(Text("starting"), console=console, transient=True, auto_refresh=False) as live:
        shower = threading.Thread(target=show, args=(live,), daemon=True)
        shower.start()
        try:
            yield
        finally:
            done.set()
            shower.join()


def _count(pattern: str) -> int:
    return len(filesystem.match(pattern))

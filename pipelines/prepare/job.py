"""What every worker knows of a job, and the files that steps leave for each other.

A step gives its files away as references, the paths, in its elements: what a later step reads
follows from the data that reach it. A path is never written twice, so what was read of it once is
right for as long as a worker lives.
"""

import functools
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.output import Run
from pipelines.io.tables import column
from pipelines.prepare.catalogue import Catalogue
from pipelines.prepare.partitions import Partition
from tfrs_twotower.schema import Config, dump_config, parse_config

# A bucket gets a piece from each bundle of partitions: fewer of them make fewer, larger pieces.
PARTITIONS_A_BUCKET = 32
CORPUS_ROW = "corpus_row"  # Column beside the counts of candidates, see `Corpus.rows`.


class StagedPartition(NamedTuple):
    """A partition of queries in files."""

    number: int
    events: str  # Paths.
    queries: str
    aggregates: str = ""  # Of the events, as feature columns; "": the config has none.


@dataclass(frozen=True)
class Job:
    """What is the same in every worker; small.

    The config stands in a file: every step of the pipeline's graph holds a job, and the graph must
    not grow with the number of features.
    """

    run: Run
    config_path: str
    has_candidates: bool  # Whether the dataset has a candidates file.
    num_partitions: int  # Of queries.
    num_candidate_partitions: int

    @property
    def config(self) -> Config:
        """The config, read once a worker and run."""
        return _config(self.config_path)

    @property
    def num_buckets(self) -> int:
        """In how many parts, by hash, distinct ids and tokens are found."""
        return -(-self.num_partitions // PARTITIONS_A_BUCKET)

    @property
    def corpus(self) -> str:
        """Which known candidates are the corpus: those of the "file", else `split.corpus`."""
        return "file" if self.has_candidates else self.config.split.corpus

    def stage(self, stem: str, table: pa.Table) -> str:
        """Leaves a table for later steps; returns its path."""
        path = self.run.staged_path(stem, ".arrow")
        filesystem.write_table(path, table)
        return path

    def stage_partition(self, number: int, partition: Partition) -> StagedPartition:
        """Leaves a partition for later steps."""
        return StagedPartition(
            number,
            *(
                self.stage(f"partitions/{number:05d}-{name}", table)
                for name, table in partition._asdict().items()
            ),
        )


def write_config(run: Run, config: Config) -> str:
    """Leaves the config for the workers; returns its path."""
    path = run.staged_path("twotower", ".yaml")
    filesystem.write_bytes(path, dump_config(config).encode())
    return path


def read_partition(staged: StagedPartition) -> Partition:
    """Reads a partition; its events have all their features, those aggregates that were found."""
    events, queries = map(filesystem.read_table, (staged.events, staged.queries))
    if staged.aggregates:
        aggregates = filesystem.read_table(staged.aggregates)
        for name in aggregates.column_names:
            events = events.append_column(name, aggregates.column(name))
    return Partition(events, queries)


@dataclass(frozen=True)
class Corpus:
    """The catalogue with what the train part says of it."""

    catalogue: Catalogue
    counts: pa.Table  # Columns `count_column`, [catalogue_size] int64
    rows: np.ndarray  # [catalogue_size] int64 candidate row, -1: not in the corpus

    def __len__(self) -> int:
        """Candidates that are members."""
        return int((self.rows >= 0).sum())


def count_column(split: int, label: int) -> str:
    """Name of the counts of one split and label."""
    return f"{split}-{label}"


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps the last result; threads that need it too wait for the one that makes it."""
    lock = threading.RLock()
    kept = functools.lru_cache(maxsize=1)(function)

    @functools.wraps(function)
    def locked(*arguments: Any) -> Any:
        with lock:
            return kept(*arguments)

    return locked


@once
def _config(path: str) -> Config:
    return parse_config(filesystem.read_bytes(path).decode(), path)


@once
def load_catalogue(path: str) -> Catalogue:
    """The known candidates; read once a worker."""
    return Catalogue(filesystem.map_table(path))


@once
def load_corpus(catalogue: str, counts: str) -> Corpus:
    """The corpus; read once a worker.

    Args:
        catalogue: Path of the known candidates.
        counts: Path of the events of each, by split and label, and of its row in the corpus.
    """
    counted = filesystem.map_table(counts)
    return Corpus(load_catalogue(catalogue), counted, column(counted, CORPUS_ROW).to_numpy())


@contextmanager
def local_vocabularies(paths: Mapping[str, str]) -> Iterator[str]:
    """Copies vocabularies to a local folder, of which TensorFlow reads `<feature>.txt`.

    Args:
        paths: By feature, on any Beam filesystem; "": a vocabulary without tokens.

    Yields:
        The folder, which is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="twotower-vocabularies-") as folder:
        for name, path in paths.items():
            with open(join(folder, f"{name}.txt"), "wb") as file:
                file.write(filesystem.read_bytes(path) if path else b"")
        yield folder

"""What every worker knows of a job, and the files that stages leave for each other."""

import functools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.tables import column, hash_ids
from pipelines.prepare.partitions import Partition
from pipelines.prepare.validate import CANDIDATE_ID, Catalogue
from tfrs_twotower.schema import Config, dump_config, parse_config
from tfrs_twotower.schema import prepared as layout

ROW = "row"
# Folders of partitions: before rare queries and candidates are left out, and behind.
UNCOUNTED, FINAL = "uncounted", "partitions"


@dataclass(frozen=True, eq=False)
class Job:
    """A job's places; small, and the same in every worker.

    The config stands in a file: every step of the pipeline's graph holds a job, and the graph must
    not grow with the number of features.
    """

    output: str  # The prepared folder.
    staging: str  # Below it; removed at the end.
    run: str  # Another name for every run: a worker may live longer than a job.
    has_candidates: bool  # Whether the dataset has a candidates file.
    num_partitions: int  # Of queries.
    num_candidate_partitions: int

    def __eq__(self, other: object) -> bool:
        """Whether it is the same run."""
        return isinstance(other, Job) and self.run == other.run

    def __hash__(self) -> int:
        """Of the run."""
        return hash(self.run)

    @property
    def config(self) -> Config:
        """The config, read once a worker and run."""
        return _config(self._config_path, self.run)

    def write_config(self, config: Config) -> None:
        """Leaves the config for the workers; the launcher calls this before anything else."""
        filesystem.write_bytes(self._config_path, dump_config(config).encode(), self.staging)

    @property
    def _config_path(self) -> str:
        return join(self.staging, "twotower.yaml")

    @property
    def vocabulary_dir(self) -> str:
        """Where the vocabulary files are."""
        return join(self.output, layout.VOCABULARIES)

    @property
    def report_path(self) -> str:
        """What all workers counted, as one JSON object."""
        return join(self.staging, "report.json")

    @property
    def candidate_counts_path(self) -> str:
        """Events of each catalogue row by split and label."""
        return join(self.staging, "candidate_counts.arrow")

    @property
    def catalogue_path(self) -> str:
        """The known candidate ids."""
        return join(self.staging, "catalogue.arrow")

    def query_rows_path(self, number: int) -> str:
        """Query rows of a partition's queries, in their order."""
        return join(self.staging, "query_rows", f"{number:05d}.arrow")

    def positives_path(self, number: int) -> str:
        """The positives of a partition, for the minima of `filters`."""
        return join(self.staging, "positives", f"{number:05d}.arrow")

    @property
    def core_path(self) -> str:
        """Which known candidates have enough positives."""
        return join(self.staging, "core.arrow")

    def write_partition(self, number: int, partition: Partition, stage: str = FINAL) -> None:
        """Leaves a partition for the later stages."""
        for name, table in partition._asdict().items():
            filesystem.write_table(self._partition_path(stage, number, name), table, self.staging)

    def read_partition(self, number: int, stage: str = FINAL) -> Partition:
        """Reads what `write_partition` wrote."""
        paths = (self._partition_path(stage, number, name) for name in Partition._fields)
        return Partition(*map(filesystem.read_table, paths))

    def write_aggregates(self, number: int, aggregates: pa.Table) -> None:
        """Leaves the aggregates of a partition's events, as feature columns."""
        filesystem.write_table(self._aggregates_path(number), aggregates, self.staging)

    def read_described(self, number: int) -> Partition:
        """Reads a partition; its events have all their features, aggregates included."""
        events, queries = self.read_partition(number)
        if self.config.query_aggregates or self.config.candidate_aggregates:
            aggregates = filesystem.read_table(self._aggregates_path(number))
            for name in aggregates.column_names:
                events = events.append_column(name, aggregates.column(name))
        return Partition(events, queries)

    @property
    def corpus_aggregates_path(self) -> str:
        """Aggregates of each catalogue row at the end of train."""
        return join(self.staging, "corpus_aggregates.arrow")

    def write_candidates(self, number: int, candidates: pa.Table) -> None:
        """Leaves a part of the candidates for the later stages."""
        filesystem.write_table(self._candidates_path(number), candidates, self.staging)

    def read_candidates(self, number: int) -> pa.Table:
        """Reads what `write_candidates` wrote."""
        return filesystem.read_table(self._candidates_path(number))

    def _partition_path(self, stage: str, number: int, name: str) -> str:
        return join(self.staging, stage, f"{number:05d}-{name}.arrow")

    def _aggregates_path(self, number: int) -> str:
        return join(self.staging, "aggregates", f"{number:05d}.arrow")

    def _candidates_path(self, number: int) -> str:
        return join(self.staging, "candidates", f"{number:05d}.arrow")


@dataclass(frozen=True)
class Corpus:
    """The catalogue with what the train part says of it."""

    catalogue: Catalogue
    hashes: np.ndarray  # [catalogue_size] uint64, of the ids
    counts: pa.Table  # Columns `count_column`, [catalogue_size] int64
    rows: np.ndarray  # [catalogue_size] int64 candidate row, -1: not in the corpus

    def __len__(self) -> int:
        """Candidates that are members."""
        return int((self.rows >= 0).sum())


def count_column(split: int, label: int) -> str:
    """Name of the counts of one split and label."""
    return f"{split}-{label}"


def load_catalogue(job: Job) -> Catalogue:
    """The known candidates; read once a worker and run."""
    return _catalogue(job.catalogue_path, job.run)


def load_catalogue_hashes(job: Job) -> np.ndarray:
    """`[catalogue_size]` uint64 hashes of the known candidate ids; made once a worker and run."""
    return _catalogue_hashes(job.catalogue_path, job.run)


def load_corpus(job: Job) -> Corpus:
    """The corpus; read once a worker and run."""
    return _corpus(job.catalogue_path, job.candidate_counts_path, job.has_candidates, job.run)


@functools.lru_cache(maxsize=1)
def _config(path: str, run: str) -> Config:
    return parse_config(filesystem.read_bytes(path).decode(), path)


@functools.lru_cache(maxsize=1)
def _catalogue(path: str, run: str) -> Catalogue:
    return Catalogue(column(filesystem.read_table(path), CANDIDATE_ID))


@functools.lru_cache(maxsize=1)
def _catalogue_hashes(path: str, run: str) -> np.ndarray:
    return hash_ids(_catalogue(path, run).ids)


@functools.lru_cache(maxsize=1)
def _corpus(path: str, counts_path: str, has_candidates: bool, run: str) -> Corpus:
    catalogue = _catalogue(path, run)
    counts = filesystem.read_table(counts_path)
    is_member = np.ones(len(catalogue), bool)
    if not has_candidates:
        # Without a file of candidates the corpus is what occurs in train.
        in_train = [column(counts, count_column(0, label)).to_numpy() for label in (0, 1)]
        is_member = sum(in_train) > 0
    rows = np.where(is_member, np.cumsum(is_member) - 1, -1)
    return Corpus(catalogue, _catalogue_hashes(path, run), counts, rows)

"""Beam transforms that leave out rare queries and candidates."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList, AsSingleton, PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.tables import column
from pipelines.prepare.cutoffs import times_by_span
from pipelines.prepare.filters import Pairs, filter_by_count, find_core
from pipelines.prepare.ingest import REPORT
from pipelines.prepare.job import Job, StagedPartition, load_catalogue, once, read_partition
from pipelines.prepare.partitions import Partition

TIMES = "times"
KEPT = "kept"


def filtered_report(counts: Mapping[str, int]) -> str:
    """The summary of what was filtered out by rule; adds it to the counters."""
    found = {rule: count for rule, count in counts.items() if count}
    for rule, count in found.items():
        Metrics.counter("examples", f"filtered.{rule}").inc(count)
    return json.dumps({"filtered": found})


class Counted(NamedTuple):
    """What is known of the partitions without rare queries and candidates."""

    partitions: PCollection[StagedPartition]
    times: PCollection[tuple[int, bytes]]  # See `cutoffs.times_by_span`.
    report: PCollection[str]


class ApplyMinima(beam.PTransform[PCollection[StagedPartition], Counted]):
    """Leaves out rare queries and candidates of staged partitions.

    One worker counts the positives of all partitions, one partition in memory at a time.
    """

    def __init__(self, job: Job, positives: PCollection[str], catalogue: Any) -> None:
        """Takes what is counted.

        Args:
            job: The job.
            positives: Paths of the positives of each partition.
            catalogue: Side input, the path of the catalogue.
        """
        super().__init__()
        self._job, self._positives, self._catalogue = job, positives, catalogue

    @no_annotations
    def expand(self, partitions: PCollection[StagedPartition]) -> Counted:
        """Takes staged partitions."""
        core = (
            partitions.pipeline
            | "One" >> beam.Create([True])
            | "FindCore"
            >> beam.ParDo(_FindCore(self._job), AsList(self._positives), self._catalogue)
        )
        kept = (
            partitions
            | "SpreadUncounted" >> beam.Reshuffle()
            | "LeaveOutRare"
            >> beam.ParDo(_LeaveOutRare(self._job), AsSingleton(core)).with_outputs(
                TIMES, REPORT, main="partitions"
            )
        )
        return Counted(kept.partitions, kept[TIMES], kept[REPORT])


class _FindCore(beam.DoFn):
    """Leaves in a file which candidates have enough positives; gives its path."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: bool, positives: Iterable[str], catalogue: str) -> Iterator[str]:
        def partitions() -> Iterator[Pairs]:
            for path in positives:
                table = filesystem.read_table(path)
                yield Pairs(*(column(table, name).to_numpy() for name in Pairs._fields))

        filters = self._job.config.filters
        is_kept = find_core(filters, partitions, len(load_catalogue(catalogue)))
        yield self._job.stage("core", pa.table({KEPT: pa.array(is_kept)}))


class _LeaveOutRare(beam.DoFn):
    """Leaves in files what stays of a partition; gives their paths, and its times."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, staged: StagedPartition, core: str) -> Iterator[Any]:
        job = self._job
        is_kept = _load_core(core)
        events, queries = read_partition(staged)
        kept, filtered = filter_by_count(job.config.filters, events, is_kept)
        yield job.stage_partition(staged.number, Partition(kept, queries))
        yield TaggedOutput(REPORT, filtered_report(filtered))
        for span in times_by_span(kept):
            yield TaggedOutput(TIMES, span)


@once
def _load_core(path: str) -> np.ndarray:
    """`[catalogue_size]` bool: the candidates with enough positives; read once a worker."""
    return np.asarray(column(filesystem.map_table(path), KEPT), bool)

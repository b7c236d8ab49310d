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
from pipelines.prepare.job import UNCOUNTED, Job, load_catalogue
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
    """What the partitions without rare queries and candidates are known by."""

    numbers: PCollection[int]
    times: PCollection[tuple[int, bytes]]  # See `cutoffs.times_by_span`.
    report: PCollection[str]


class ApplyMinima(beam.PTransform[PCollection[int], Counted]):
    """Leaves out rare queries and candidates of staged partitions.

    One worker counts the positives of all partitions, one partition in memory at a time.
    """

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    @no_annotations
    def expand(self, numbers: PCollection[int]) -> Counted:
        """Takes the numbers of partitions that are staged as `UNCOUNTED`."""
        core = (
            numbers.pipeline
            | "One" >> beam.Create([True])
            | "FindCore" >> beam.ParDo(_FindCore(self._job), AsList(numbers))
        )
        kept = (
            numbers
            | "SpreadUncounted" >> beam.Reshuffle()
            | "LeaveOutRare"
            >> beam.ParDo(_LeaveOutRare(self._job), AsSingleton(core)).with_outputs(
                TIMES, REPORT, main="numbers"
            )
        )
        return Counted(kept.numbers, kept[TIMES], kept[REPORT])


class _FindCore(beam.DoFn):
    """Leaves in a file which candidates have enough positives."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: bool, numbers: Iterable[int]) -> Iterator[bool]:
        job = self._job

        def partitions() -> Iterator[Pairs]:
            for number in numbers:
                table = filesystem.read_table(job.positives_path(number))
                yield Pairs(*(column(table, name).to_numpy() for name in Pairs._fields))

        is_kept = find_core(job.config.filters, partitions, len(load_catalogue(job)))
        filesystem.write_table(job.core_path, pa.table({KEPT: pa.array(is_kept)}), job.staging)
        yield element


class _LeaveOutRare(beam.DoFn):
    """Leaves in the staging folder what stays of a partition; gives its number and times."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, number: int, ready: Any) -> Iterator[Any]:
        job = self._job
        is_kept = np.asarray(column(filesystem.read_table(job.core_path), KEPT), bool)
        events, queries = job.read_partition(number, UNCOUNTED)
        kept, filtered = filter_by_count(job.config.filters, events, is_kept)
        job.write_partition(number, Partition(kept, queries))
        yield number
        yield TaggedOutput(REPORT, filtered_report(filtered))
        for span in times_by_span(kept):
            yield TaggedOutput(TIMES, span)

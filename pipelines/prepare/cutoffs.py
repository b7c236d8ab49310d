"""Beam transforms from the times of all events to the cut-offs of the split."""

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, PCollection

from pipelines.io.sums import SumByKey
from pipelines.io.tables import column, from_ipc, to_ipc
from pipelines.prepare.job import Job
from pipelines.prepare.split import (
    NEVER,
    Cutoffs,
    Histogram,
    cutoffs_by_date,
    cutoffs_by_time,
    histogram,
)
from pipelines.prepare.validate import TIMESTAMP_S
from tfrs_twotower.schema import Config

# Events of so many seconds stand in one element of the histogram of times.
HISTOGRAM_SECONDS = 1 << 16
SECONDS, COUNTS = "seconds", "counts"


def times_by_span(events: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Histograms of the times of some events, by span of time, for `FindCutoffs`."""
    times = histogram(column(events, TIMESTAMP_S).to_numpy())
    span_of = times.seconds // HISTOGRAM_SECONDS
    for span in np.unique(span_of).tolist():
        of_span = span_of == span
        yield span, _histogram_ipc(Histogram(times.seconds[of_span], times.counts[of_span]))


class FindCutoffs(beam.PTransform[PCollection[tuple[int, bytes]], PCollection[tuple[int, int]]]):
    """The cut-offs of the split, from the histogram of all times: exactly one element."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, histograms: PCollection[tuple[int, bytes]]) -> PCollection[tuple[int, int]]:
        """Takes histograms by span of time."""
        spans = (
            histograms
            | "BySpan" >> beam.CombinePerKey(SumByKey([COUNTS]))
            | "Sort" >> beam.MapTuple(lambda span, times: to_ipc(times.sort_by(SECONDS)))
        )
        # A side input, as some runners make one element of all that is grouped under a key.
        return (
            histograms.pipeline
            | "Job" >> beam.Create([self._job])
            | "Cut"
            >> beam.Map(lambda job, spans: tuple(_cutoffs(spans, job.config)), AsIter(spans))
        )


NO_TIMES = histogram(np.zeros(0, np.int64))


def _cutoffs(histograms: Iterable[bytes], config: Config) -> Cutoffs:
    """The cut-offs from the histograms of all spans."""
    split = config.split
    if split.by == "time":
        spans = sorted(map(_histogram_of, histograms), key=lambda span: tuple(span.seconds[:1]))
        parts = zip(*[NO_TIMES, *spans], strict=True)
        times = Histogram(*map(np.concatenate, parts))
        return cutoffs_by_time(times, split.validation, split.test)
    if split.by == "dates":
        assert split.validation_from is not None
        assert split.test_from is not None
        return cutoffs_by_date(split.validation_from, split.test_from)
    return Cutoffs(NEVER, NEVER)


def _histogram_ipc(times: Histogram) -> bytes:
    return to_ipc(pa.table({SECONDS: pa.array(times.seconds), COUNTS: pa.array(times.counts)}))


def _histogram_of(data: bytes) -> Histogram:
    table = from_ipc(data)
    return Histogram(*(column(table, name).to_numpy() for name in (SECONDS, COUNTS)))

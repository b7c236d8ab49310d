"""Beam transforms between reading and writing: partitions, the catalogue, row numbers."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.tables import column, concat, indices, to_ipc
from pipelines.prepare.cutoffs import FindCutoffs, times_by_span
from pipelines.prepare.filters import filter_by_query, positives_of
from pipelines.prepare.ingest import (
    ORIGIN,
    REJECTED,
    REPORT,
    no_events,
    no_profiles,
    rejected_element,
)
from pipelines.prepare.job import ROW, UNCOUNTED, Job, load_catalogue
from pipelines.prepare.parsing import Reject
from pipelines.prepare.partitions import Partition, first_of_each, make_partition
from pipelines.prepare.rare_filter import TIMES, ApplyMinima, filtered_report
from pipelines.prepare.summary import Summary
from pipelines.prepare.validate import CANDIDATE_ID, CANDIDATE_ROW, DUPLICATE_ID, QUERY_ID

QUERY_IDS, CANDIDATE_IDS = "query_ids", "candidate_ids"
EVENTS, PROFILES = "events", "profiles"


def deduplicated(
    entities: pa.Table, id_column: str, kind: str
) -> tuple[pa.Table, dict[str, list[Reject]], Summary]:
    """Keeps the first entity of each id, in the order of files and rows.

    Args:
        entities: With the columns `ORIGIN`; in any order.
        id_column: Of the ids.
        kind: Of the files, for the summary.

    Returns:
        The kept ones without their origin; rejects by `<chunk>:<file>`; what to report of them.
    """
    is_first = first_of_each(entities, id_column, ORIGIN)
    kept = entities.filter(pa.array(is_first)).drop_columns(list(ORIGIN)).combine_chunks()
    rejects: dict[str, list[Reject]] = {}
    summary: Summary = {}
    if not is_first.all():
        others = entities.filter(pa.array(~is_first)).select([*ORIGIN, id_column])
        for file, chunk, row, entity_id in zip(*others.to_pydict().values(), strict=True):
            reject = Reject(row, DUPLICATE_ID, json.dumps({id_column: entity_id}))
            rejects.setdefault(f"{chunk}:{file}", []).append(reject)
        count = len(others)
        summary["kinds"] = {kind: {"rejected": {DUPLICATE_ID: count}}}
        names = others.column(ORIGIN[0]).to_pylist()
        summary["files"] = {name: {"rejected": names.count(name)} for name in set(names)}
        Metrics.counter("read", f"rejected.{DUPLICATE_ID}").inc(count)
    return kept, rejects, summary


def _emit_duplicates(
    rejects: dict[str, list[Reject]], summary: Summary
) -> Iterator[TaggedOutput[str, Any]]:
    for place, listed in rejects.items():
        chunk, _, file = place.partition(":")
        yield TaggedOutput(REJECTED, (file, rejected_element(int(chunk), 0, listed)))
    if summary:
        yield TaggedOutput(REPORT, json.dumps(summary))


class _StageCandidates(beam.DoFn):
    """Leaves the candidates of one partition in the staging folder; gives its number and ids."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        number, pieces = element
        candidates, rejects, summary = deduplicated(concat(pieces), CANDIDATE_ID, "candidates")
        candidates = candidates.sort_by(CANDIDATE_ID).combine_chunks()
        self._job.write_candidates(number, candidates)
        yield number
        yield TaggedOutput(CANDIDATE_IDS, (0, to_ipc(candidates.select([CANDIDATE_ID]))))
        yield from _emit_duplicates(rejects, summary)


class _WriteCatalogue(beam.DoFn):
    """Sorts all candidate ids into the catalogue file."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[bool]:
        ids = column(concat(element[1]), CANDIDATE_ID).unique()
        ids = ids.take(pc.sort_indices(ids))
        table = pa.table({CANDIDATE_ID: ids})
        filesystem.write_table(self._job.catalogue_path, table, self._job.staging)
        yield True


class _StagePartition(beam.DoFn):
    """Leaves one partition in the staging folder; gives its ids and times."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(
        self, element: tuple[int, dict[str, Iterable[bytes]]], *ready: Any
    ) -> Iterator[Any]:
        number, by_kind = element
        pieces = {kind: list(parts) for kind, parts in by_kind.items()}
        config = self._job.config
        # A partition may lack either: the empty pieces say which columns there would be.
        none = to_ipc(no_events(config, self._job.has_candidates))
        events = self._with_rows(concat([none, *pieces[EVENTS]]))
        profiles, rejects, summary = deduplicated(
            concat([to_ipc(no_profiles(config)), *pieces[PROFILES]]), QUERY_ID, "queries"
        )
        yield from _emit_duplicates(rejects, summary)
        partition = make_partition(events, profiles)
        del events, pieces
        filters = config.filters
        kept, filtered = filter_by_query(filters, partition.events)
        partition = Partition(kept, partition.queries)
        yield TaggedOutput(REPORT, filtered_report(filtered))
        if filters.has_minima:
            self._job.write_partition(number, partition, UNCOUNTED)
            positives = pa.table(positives_of(kept)._asdict())
            filesystem.write_table(self._job.positives_path(number), positives, self._job.staging)
        else:
            self._job.write_partition(number, partition)
        yield number
        ids = partition.queries.select([QUERY_ID])
        numbers = pa.array(np.full(len(ids), number, np.int32))
        yield TaggedOutput(QUERY_IDS, (0, to_ipc(ids.append_column("partition", numbers))))
        if not filters.has_minima:
            for span in times_by_span(partition.events):
                yield TaggedOutput(TIMES, span)

    def _with_rows(self, events: pa.Table) -> pa.Table:
        if CANDIDATE_ID not in events.column_names:
            return events
        ids = column(events, CANDIDATE_ID)
        rows = load_catalogue(self._job).rows(ids.dictionary)[indices(ids)]
        return events.drop_columns([CANDIDATE_ID]).append_column(CANDIDATE_ROW, pa.array(rows))


class _WriteQueryRows(beam.DoFn):
    """Numbers all queries in the order of their ids; leaves each partition's rows in a file."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[int]:
        table = concat(element[1])
        order = pc.sort_indices(column(table, QUERY_ID)).to_numpy()
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        numbers = column(table, "partition").to_numpy()
        # The ids of a partition came in their order, so its rows do too.
        for number in np.unique(numbers).tolist():
            of_partition = pa.table({ROW: pa.array(rows[numbers == number])})
            path = self._job.query_rows_path(number)
            filesystem.write_table(path, of_partition, self._job.staging)
        yield len(order)


class Staged(NamedTuple):
    """What the staged partitions are known by."""

    numbers: PCollection[int]
    cutoffs: PCollection[tuple[int, int]]
    num_queries: PCollection[int]
    rejected: PCollection[tuple[str, bytes]]
    report: PCollection[str]


class StagePartitions(beam.PTransform[dict[str, PCollection[tuple[int, bytes]]], Staged]):
    """Groups events and profiles by partition and leaves each in the staging folder."""

    def __init__(self, job: Job, catalogue: Any) -> None:
        """Takes the job and, where events still have ids, a side input ready with the catalogue."""
        super().__init__()
        self._job, self._catalogue = job, catalogue

    @no_annotations
    def expand(self, pieces: dict[str, PCollection[tuple[int, bytes]]]) -> Staged:
        """Takes pieces of `EVENTS` and of `PROFILES`, by number of partition."""
        ready = [] if self._catalogue is None else [self._catalogue]
        staged = (
            pieces
            | "ByPartition" >> beam.CoGroupByKey()
            | "Stage"
            >> beam.ParDo(_StagePartition(self._job), *ready).with_outputs(
                QUERY_IDS, TIMES, REJECTED, REPORT, main="numbers"
            )
        )
        numbers, times, reports = staged.numbers, staged[TIMES], staged[REPORT]
        if self._job.config.filters.has_minima:
            numbers, times, counted = numbers | "ApplyMinima" >> ApplyMinima(self._job)
            reports = (reports, counted) | "Reports" >> beam.Flatten()
        no_query = pa.table(
            {QUERY_ID: pa.array([], pa.string()), "partition": pa.array([], pa.int32())}
        )
        seed = staged.numbers.pipeline | "NoQuery" >> beam.Create([(0, to_ipc(no_query))])
        num_queries = (
            (staged[QUERY_IDS], seed)
            | beam.Flatten()
            | "AllQueries" >> beam.GroupByKey()
            | "WriteQueryRows" >> beam.ParDo(_WriteQueryRows(self._job))
        )
        cutoffs = times | "FindCutoffs" >> FindCutoffs(self._job)
        return Staged(
            numbers | "Spread" >> beam.Reshuffle(), cutoffs, num_queries, staged[REJECTED], reports
        )


class StageCatalogue(beam.PTransform[PCollection[tuple[int, bytes]], PCollection[bool]]):
    """Sorts the ids of candidates into the catalogue file; gives one element when it is there."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, ids: PCollection[tuple[int, bytes]]) -> PCollection[bool]:
        """Takes ids, all under one key."""
        nothing = to_ipc(pa.table({CANDIDATE_ID: pa.array([], pa.string())}))
        seed = ids.pipeline | "NoCandidate" >> beam.Create([(0, nothing)])
        return (
            (ids, seed)
            | beam.Flatten()
            | "AllCandidates" >> beam.GroupByKey()
            | "WriteCatalogue" >> beam.ParDo(_WriteCatalogue(self._job))
        )


class StagedCandidates(NamedTuple):
    """What the staged candidates are known by."""

    numbers: PCollection[int]
    ids: PCollection[tuple[int, bytes]]
    rejected: PCollection[tuple[str, bytes]]
    report: PCollection[str]


class StageCandidates(beam.PTransform[PCollection[tuple[int, bytes]], StagedCandidates]):
    """Groups candidates by partition and leaves each in the staging folder."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    @no_annotations
    def expand(self, pieces: PCollection[tuple[int, bytes]]) -> StagedCandidates:
        """Takes pieces by number of partition."""
        staged = (
            pieces
            | "ByPartition" >> beam.GroupByKey()
            | "Stage"
            >> beam.ParDo(_StageCandidates(self._job)).with_outputs(
                CANDIDATE_IDS, REJECTED, REPORT, main="numbers"
            )
        )
        return StagedCandidates(
            staged.numbers | "Spread" >> beam.Reshuffle(),
            staged[CANDIDATE_IDS],
            staged[REJECTED],
            staged[REPORT],
        )

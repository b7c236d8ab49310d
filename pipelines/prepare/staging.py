"""Beam transforms between reading and writing: partitions, the catalogue, row numbers."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsIter, PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io.report import Summary
from pipelines.io.sums import SumByKey
from pipelines.io.tables import column, concat, indices, to_ipc
from pipelines.prepare.catalogue import catalogue_table
from pipelines.prepare.cutoffs import FindCutoffs, times_by_span
from pipelines.prepare.filters import filter_by_query, positives_of
from pipelines.prepare.ingest import (
    FILE,
    MAX_REJECTS_KEPT,
    ORIGIN,
    REJECTED,
    REPORT,
    no_events,
    no_profiles,
    rejected_element,
)
from pipelines.prepare.job import Job, StagedPartition, load_catalogue
from pipelines.prepare.parsing import Reject
from pipelines.prepare.partitions import Partition, first_of_each, make_partition
from pipelines.prepare.progress import SORTED, count
from pipelines.prepare.query_rows import NumberQueries, RowsOfRange
from pipelines.prepare.rare_filter import TIMES, ApplyMinima, filtered_report
from pipelines.prepare.validate import CANDIDATE_ID, CANDIDATE_ROW, DUPLICATE_ID, QUERY_ID

QUERY_IDS, CANDIDATE_IDS = "query_ids", "candidate_ids"
POSITIVES = "positives"
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
        others = others.sort_by([(name, "ascending") for name in ORIGIN])
        of_files = Counter(others.column(FILE).to_pylist())
        summary["kinds"] = {kind: {"rejected": {DUPLICATE_ID: len(others)}}}
        summary["files"] = {name: {"rejected": number} for name, number in of_files.items()}
        Metrics.counter("read", f"rejected.{DUPLICATE_ID}").inc(len(others))
        for file in of_files:
            first = others.filter(pc.equal(others.column(FILE), file)).slice(0, MAX_REJECTS_KEPT)
            for _, chunk, row, entity_id in zip(*first.to_pydict().values(), strict=True):
                reject = Reject(row, DUPLICATE_ID, json.dumps({id_column: entity_id}))
                rejects.setdefault(f"{chunk}:{file}", []).append(reject)
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
    """Leaves the candidates of one partition in a file; gives its number and path, and the ids."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        number, pieces = element
        candidates, rejects, summary = deduplicated(concat(pieces), CANDIDATE_ID, "candidates")
        candidates = candidates.sort_by(CANDIDATE_ID).combine_chunks()
        yield number, self._job.stage(f"candidates/{number:05d}", candidates)
        yield TaggedOutput(CANDIDATE_IDS, (number, to_ipc(candidates.select([CANDIDATE_ID]))))
        yield from _emit_duplicates(rejects, summary)


def _write_catalogue(job: Job, distinct: Iterable[bytes]) -> str:
    """Sorts the distinct candidate ids into the catalogue; gives its path."""
    nothing = to_ipc(pa.table({CANDIDATE_ID: pa.array([], pa.string())}))
    ids = column(concat([nothing, *distinct]), CANDIDATE_ID)
    return job.stage("catalogue", catalogue_table(ids.take(pc.sort_indices(ids))))


class _StagePartition(beam.DoFn):
    """Leaves one partition in files; gives their paths, and its ids and times."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(
        self, element: tuple[int, dict[str, Iterable[bytes]]], catalogue: str | None = None
    ) -> Iterator[Any]:
        number, by_kind = element
        pieces = {kind: list(parts) for kind, parts in by_kind.items()}
        config = self._job.config
        # A partition may lack either: the empty pieces say which columns there would be.
        none = to_ipc(no_events(config, self._job.has_candidates))
        events = _with_rows(concat([none, *pieces[EVENTS]]), catalogue)
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
            positives = pa.table(positives_of(kept)._asdict())
            yield TaggedOutput(POSITIVES, self._job.stage(f"positives/{number:05d}", positives))
        else:
            for span in times_by_span(partition.events):
                yield TaggedOutput(TIMES, span)
        yield self._job.stage_partition(number, partition)
        count(SORTED)
        yield TaggedOutput(QUERY_IDS, (number, to_ipc(partition.queries.select([QUERY_ID]))))


def _with_rows(events: pa.Table, catalogue: str | None) -> pa.Table:
    """Events with catalogue rows in place of ids, where they have ids."""
    if catalogue is None:
        return events
    ids = column(events, CANDIDATE_ID)
    rows = load_catalogue(catalogue).rows(ids.dictionary)[indices(ids)]
    return events.drop_columns([CANDIDATE_ID]).append_column(CANDIDATE_ROW, pa.array(rows))


class Staged(NamedTuple):
    """What is known of the staged partitions."""

    partitions: PCollection[StagedPartition]
    query_rows: PCollection[tuple[int, RowsOfRange]]  # By number of partition.
    cutoffs: PCollection[tuple[int, int]]
    num_queries: PCollection[int]
    rejected: PCollection[tuple[str, bytes]]
    report: PCollection[str]


class StagePartitions(beam.PTransform[dict[str, PCollection[tuple[int, bytes]]], Staged]):
    """Groups events and profiles by partition and leaves each in files."""

    def __init__(self, job: Job, catalogue: Any) -> None:
        """Takes the job and a side input, the path of the catalogue."""
        super().__init__()
        self._job, self._catalogue = job, catalogue

    @no_annotations
    def expand(self, pieces: dict[str, PCollection[tuple[int, bytes]]]) -> Staged:
        """Takes pieces of `EVENTS` and of `PROFILES`, by number of partition."""
        # With a file of candidates the events have rows already.
        catalogue = [] if self._job.has_candidates else [self._catalogue]
        staged = (
            pieces
            | "ByPartition" >> beam.CoGroupByKey()
            | "Stage"
            >> beam.ParDo(_StagePartition(self._job), *catalogue).with_outputs(
                QUERY_IDS, TIMES, POSITIVES, REJECTED, REPORT, main="partitions"
            )
        )
        partitions, times, reports = staged.partitions, staged[TIMES], staged[REPORT]
        if self._job.config.filters.has_minima:
            minima = ApplyMinima(self._job, staged[POSITIVES], self._catalogue)
            partitions, times, counted = partitions | "ApplyMinima" >> minima
            reports = (reports, counted) | "Reports" >> beam.Flatten()
        queries = staged[QUERY_IDS] | "NumberQueries" >> NumberQueries(self._job.num_partitions)
        cutoffs = times | "FindCutoffs" >> FindCutoffs(self._job)
        return Staged(
            partitions | "Spread" >> beam.Reshuffle(),
            queries.rows,
            cutoffs,
            queries.num_queries,
            staged[REJECTED],
            reports,
        )


class StageCatalogue(beam.PTransform[PCollection[tuple[int, bytes]], PCollection[str]]):
    """Sorts the ids of candidates into the catalogue; gives its path, one element."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, ids: PCollection[tuple[int, bytes]]) -> PCollection[str]:
        """Takes ids; those that are equal must come under one number."""
        distinct = (
            ids
            | "Distinct" >> beam.CombinePerKey(SumByKey())
            | "Pack" >> beam.MapTuple(lambda number, ids: to_ipc(ids))
        )
        return (
            ids.pipeline
            | "Job" >> beam.Create([self._job])
            | "WriteCatalogue" >> beam.Map(_write_catalogue, AsIter(distinct))
        )


class StagedCandidates(NamedTuple):
    """What is known of the staged candidates."""

    parts: PCollection[tuple[int, str]]  # Number and path.
    ids: PCollection[tuple[int, bytes]]
    rejected: PCollection[tuple[str, bytes]]
    report: PCollection[str]


class StageCandidates(beam.PTransform[PCollection[tuple[int, bytes]], StagedCandidates]):
    """Groups candidates by partition and leaves each in a file."""

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
                CANDIDATE_IDS, REJECTED, REPORT, main="parts"
            )
        )
        return StagedCandidates(
            staged.parts | "Spread" >> beam.Reshuffle(),
            staged[CANDIDATE_IDS],
            staged[REJECTED],
            staged[REPORT],
        )

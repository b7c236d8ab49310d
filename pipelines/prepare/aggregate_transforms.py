"""Beam transforms that find the point-in-time aggregates of staged partitions.

A partition holds all events of its queries, so what is of the query is found inside it. What is of
the candidate needs the events of all queries: the little that counts of an event goes to a bucket
by candidate and second, where the events of each are added up; the sums go to a bucket by
candidate. The values that are found there come back the same way. So no worker holds all events of
a candidate, however many it has, but a row for each second in which it has some.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsIter, AsSingleton, PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.tables import column, concat, mix, pieces_by, to_ipc
from pipelines.prepare.aggregates import NO_EVENTS, Events, Log, by_moment, events_of
from pipelines.prepare.audit import audit_aggregates, audit_corpus, is_sampled, spread
from pipelines.prepare.examples import split_partition
from pipelines.prepare.ingest import REPORT
from pipelines.prepare.job import (
    Job,
    StagedPartition,
    load_catalogue,
    read_partition,
)
from pipelines.prepare.partitions import QUERY
from pipelines.prepare.split import TRAIN, Cutoffs
from pipelines.prepare.validate import CANDIDATE_ROW, FEATURE, LABEL, TIMESTAMP_S, VALUE
from tfrs_twotower.schema.features import Aggregate

# Columns of what goes to a bucket and comes back.
PARTITION, POSITION, IS_TRAIN, PLACE = "partition", "position", "is_train", "place"
OF_VALUES = ["valued", "sums"]  # Fields of `Events` that travel where an aggregate reads values.
LAST_TRAIN, ASKED, CORPUS = "last_train", "asked", "corpus"
STAGED, FOUND = "staged", "found"
NO_TRAIN = -1  # The last second of a train part without events.


class Aggregated(NamedTuple):
    """What is known of the partitions with aggregates."""

    partitions: PCollection[StagedPartition]
    corpus: PCollection[str]  # One path: aggregates of each catalogue row at the end of train.
    report: PCollection[str]


class FindAggregates(beam.PTransform[PCollection[StagedPartition], Aggregated]):
    """Leaves the aggregates of every event, and of the corpus, in files."""

    def __init__(self, job: Job, cutoffs: PCollection[tuple[int, int]], catalogue: Any) -> None:
        """Takes the job, the cut-offs of the split and a side input, the path of the catalogue."""
        super().__init__()
        self._job, self._cutoffs, self._catalogue = job, cutoffs, catalogue

    @no_annotations
    def expand(self, partitions: PCollection[StagedPartition]) -> Aggregated:
        """Takes staged partitions."""
        job, catalogue = self._job, self._catalogue
        cut = partitions | "CutByMoment" >> beam.ParDo(
            _CutByMoment(job), AsSingleton(self._cutoffs), catalogue
        ).with_outputs(LAST_TRAIN, main="pieces")
        no_train = partitions.pipeline | "NoTrain" >> beam.Create([NO_TRAIN])
        last_train = (
            (cut[LAST_TRAIN], no_train)
            | "Seconds" >> beam.Flatten()
            | "LastTrain" >> beam.CombineGlobally(max)
        )
        summed = (
            cut.pieces
            | "ByMoment" >> beam.GroupByKey()
            | "AddUp" >> beam.ParDo(_AddUp(job)).with_outputs(ASKED, main="sums")
        )
        of_candidates = (
            summed.sums
            | "ByCandidate" >> beam.GroupByKey()
            | "OfCandidates"
            >> beam.ParDo(_OfCandidates(job), AsSingleton(last_train), catalogue).with_outputs(
                CORPUS, REPORT, main="found"
            )
        )
        corpus = (
            partitions.pipeline
            | "Job" >> beam.Create([job])
            | "WriteCorpus" >> beam.Map(_write_corpus, AsIter(of_candidates[CORPUS]), catalogue)
        )
        found = (
            {ASKED: summed[ASKED], FOUND: of_candidates.found}
            | "BackByMoment" >> beam.CoGroupByKey()
            | "OfEvents" >> beam.ParDo(_OfEvents())
        )
        by_number = partitions | "Numbers" >> beam.Map(lambda staged: (staged.number, staged))
        aggregated = (
            {STAGED: by_number, FOUND: found}
            | "ByPartition" >> beam.CoGroupByKey()
            | "WriteAggregates" >> beam.ParDo(_WriteAggregates(job))
        )
        return Aggregated(aggregated | "Spread" >> beam.Reshuffle(), corpus, of_candidates[REPORT])


class _CutByMoment(beam.DoFn):
    """Cuts what candidate aggregates read of a partition by candidate and second."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(
        self, staged: StagedPartition, cutoffs: tuple[int, int], catalogue: str
    ) -> Iterator[Any]:
        job = self._job
        if not job.config.candidate_aggregates:
            return
        partition = read_partition(staged)
        hashes = load_catalogue(catalogue).hashes
        splits = split_partition(job.config, partition, Cutoffs(*cutoffs), hashes)
        names = (CANDIDATE_ROW, TIMESTAMP_S, LABEL, VALUE)
        events = partition.events
        events = events.select([name for name in names if name in events.column_names])
        size = events.num_rows
        added = {
            IS_TRAIN: pa.array(splits == TRAIN),
            PARTITION: pa.array(np.full(size, staged.number, np.int32)),
            POSITION: pa.array(np.arange(size, dtype=np.int32)),
        }
        for name, values in added.items():
            events = events.append_column(name, values)
        rows, seconds = (column(events, name).to_numpy() for name in (CANDIDATE_ROW, TIMESTAMP_S))
        yield TaggedOutput(LAST_TRAIN, int(seconds[splits == TRAIN].max(initial=NO_TRAIN)))
        for bucket, piece in pieces_by(events, _buckets(rows, seconds, job.num_partitions)):
            yield bucket, to_ipc(piece)


def _buckets(rows: np.ndarray, seconds: np.ndarray, num_buckets: int) -> np.ndarray:
    """`[n]` int64 numbers of the buckets of candidates and seconds."""
    return (mix(rows.astype(np.uint64), seconds) % np.uint64(num_buckets)).astype(np.int64)


class _AddUp(beam.DoFn):
    """Adds up the events of each candidate and second; gives the sums by candidate."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Any]:
        bucket, pieces = element
        table = concat(pieces)
        is_train = column(table, IS_TRAIN).to_numpy(zero_copy_only=False)
        sums, is_train, places = by_moment(events_of(table, CANDIDATE_ROW), is_train)
        asked = table.select([PARTITION, POSITION])
        asked = asked.append_column(PLACE, pa.array(places, pa.int32()))
        yield TaggedOutput(ASKED, (bucket, self._job.stage(f"asked/{bucket:05d}", asked)))
        by_place = {IS_TRAIN: is_train, PLACE: np.arange(len(is_train), dtype=np.int32)}
        summed = pa.table(sums._asdict() | by_place)
        if VALUE not in table.column_names:
            summed = summed.drop_columns(OF_VALUES)
        for number, piece in pieces_by(summed, sums.entities % self._job.num_partitions):
            yield number, to_ipc(piece)


class _OfCandidates(beam.DoFn):
    """Finds the aggregates of some candidates in each second, and at the end of train."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(
        self, element: tuple[int, Iterable[bytes]], last_train_s: int, catalogue: str
    ) -> Iterator[Any]:
        job, table = self._job, concat(element[1])
        aggregates = job.config.candidate_aggregates
        for name in OF_VALUES:
            if name not in table.column_names:
                table = table.append_column(name, pa.array(np.zeros(table.num_rows)))
        events = Events(*(column(table, name).to_numpy() for name in Events._fields))
        is_train = column(table, IS_TRAIN).to_numpy(zero_copy_only=False)
        columns = Log(events).columns(aggregates, events.entities, events.timestamps)
        found = pa.table({PLACE: column(table, PLACE), **columns})
        buckets = _buckets(events.entities, events.timestamps, job.num_partitions)
        for bucket, piece in pieces_by(found, buckets):
            yield bucket, to_ipc(piece)
        rows = np.unique(events.entities)
        moments = np.full(len(rows), last_train_s + 1)
        at_end = Log(events.where(is_train)).columns(aggregates, rows, moments)
        corpus = pa.table({CANDIDATE_ROW: pa.array(rows), **at_end})
        yield TaggedOutput(CORPUS, to_ipc(corpus))
        hashes = load_catalogue(catalogue).hashes
        chosen = is_sampled(hashes[rows], len(hashes))
        positions, found_at_end = spread(events, rows[chosen]), corpus.filter(pa.array(chosen))
        for audit in (
            audit_aggregates(aggregates, events, positions, found),
            audit_corpus(aggregates, events, is_train, last_train_s, rows[chosen], found_at_end),
        ):
            yield TaggedOutput(REPORT, json.dumps({"audit": audit._asdict()}))


class _OfEvents(beam.DoFn):
    """Gives every event what was found of its candidate and second, by partition."""

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[tuple[int, bytes]]:
        _, by_kind = element
        [path] = by_kind[ASKED]
        asked = filesystem.read_table(path)
        found = concat(by_kind[FOUND]).sort_by(PLACE).drop_columns([PLACE])
        of_events = found.take(column(asked, PLACE))
        of_events = of_events.append_column(POSITION, column(asked, POSITION))
        for number, piece in pieces_by(of_events, column(asked, PARTITION).to_numpy()):
            yield number, to_ipc(piece)


def _write_corpus(job: Job, parts: Iterable[bytes], catalogue: str) -> str:
    """Leaves the aggregates of all known candidates at the end of train; gives the path."""
    aggregates = job.config.candidate_aggregates
    found = concat([_nothing_found(aggregates, CANDIDATE_ROW), *parts])
    rows = np.arange(len(load_catalogue(catalogue)), dtype=np.int32)
    others = np.setdiff1d(rows, column(found, CANDIDATE_ROW).to_numpy())
    without_events = Log(NO_EVENTS).columns(aggregates, others, np.zeros(len(others), np.int64))
    table = pa.concat_tables([found, pa.table({CANDIDATE_ROW: others, **without_events})])
    table = table.sort_by(CANDIDATE_ROW).drop_columns([CANDIDATE_ROW])
    return job.stage("corpus_aggregates", table)


class _WriteAggregates(beam.DoFn):
    """Leaves the aggregates of a partition's events, in their order, in a file."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[int, dict[str, Iterable[Any]]]) -> Iterator[Any]:
        number, by_kind = element
        [staged] = by_kind[STAGED]
        config = self._job.config
        events = events_of(read_partition(staged).events, QUERY)
        columns = Log(events).columns(config.query_aggregates, events.entities, events.timestamps)
        if config.candidate_aggregates:
            pieces = [_nothing_found(config.candidate_aggregates, POSITION), *by_kind[FOUND]]
            found = concat(pieces).sort_by(POSITION)
            columns |= {
                FEATURE + name: column(found, FEATURE + name)
                for name in config.candidate_aggregates
            }
        path = self._job.stage(f"aggregates/{number:05d}", pa.table(columns))
        yield staged._replace(aggregates=path)


def _nothing_found(aggregates: Mapping[str, Aggregate], key: str) -> bytes:
    """The columns of what is found, without a row."""
    columns = Log(NO_EVENTS).columns(aggregates, NO_EVENTS.entities, NO_EVENTS.timestamps)
    return to_ipc(pa.table({key: pa.array([], pa.int32()), **columns}))

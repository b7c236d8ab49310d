"""Beam transforms behind the shuffle: counts of the train part, then the files of the folder."""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.shards import write_framed, write_parquet, write_records
from pipelines.io.tables import column, concat, hash_ids, to_ipc
from pipelines.prepare import value_counts
from pipelines.prepare.aggregates import events_of
from pipelines.prepare.audit import (
    Audit,
    audit_aggregates,
    audit_examples,
    is_sampled,
    sampled,
    spread,
    train_digest,
)
from pipelines.prepare.candidate_records import candidate_attributes, candidate_records
from pipelines.prepare.examples import ExampleEncoder, Examples, split_partition
from pipelines.prepare.job import (
    ROW,
    Job,
    count_column,
    load_catalogue,
    load_catalogue_hashes,
    load_corpus,
)
from pipelines.prepare.number_statistics import COUNT, VALUE, merge_counts, number_statistics
from pipelines.prepare.partitions import QUERY, Partition
from pipelines.prepare.split import TRAIN, Cutoffs
from pipelines.prepare.summary import Summary, merge
from pipelines.prepare.validate import CANDIDATE_ID, QUERY_ID
from pipelines.prepare.vocabularies import make_vocabulary
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.schema import SPLITS, Config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import WITH_VOCABULARY, Feature


class CountPartition(beam.DoFn):
    """Counts the train part of a staged partition."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(
        self, number: int, cutoffs: tuple[int, int], catalogue: Any
    ) -> Iterator[tuple[str, bytes]]:
        """Takes the number of a partition."""
        config = self._job.config
        partition = self._job.read_described(number)
        hashes = load_catalogue_hashes(self._job)
        splits = split_partition(config, partition, Cutoffs(*cutoffs), hashes)
        for key, piece in value_counts.count_partition(config, partition, splits):
            yield key, to_ipc(piece)


class CountCandidates(beam.DoFn):
    """Counts the features of staged candidates."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(self, number: int) -> Iterator[tuple[str, bytes]]:
        """Takes the number of a part."""
        candidates = self._job.read_candidates(number)
        for key, piece in value_counts.count_candidates(self._job.config, candidates):
            yield key, to_ipc(piece)


class MergeCounts(beam.PTransform[PCollection[tuple[str, bytes]], PCollection[str]]):
    """Merges counts by key into vocabularies, number statistics and counts of candidates.

    Gives a summary a key; when all are there, so are the files.
    """

    def __init__(self, job: Job, catalogue: Any) -> None:
        """Takes the job and a side input that is ready when the catalogue is."""
        super().__init__()
        self._job, self._catalogue = job, catalogue

    def expand(self, pieces: PCollection[tuple[str, bytes]]) -> PCollection[str]:
        """Takes counts by quantity, see `value_counts`."""
        job = pieces.pipeline | "Job" >> beam.Create([self._job])
        seeds = job | "NoCounts" >> beam.FlatMap(_empty_pieces)
        return (
            (pieces, seeds)
            | beam.Flatten()
            | "ByQuantity" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(_MergeCounts(self._job), self._catalogue)
        )


def _empty_pieces(job: Job) -> Iterator[tuple[str, bytes]]:
    for key, piece in value_counts.empty_pieces(job.config):
        yield key, to_ipc(piece)


class _MergeCounts(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, Iterable[bytes]], catalogue: Any) -> Iterator[str]:
        key, pieces = element
        config = self._job.config
        if key == value_counts.CANDIDATES:
            yield json.dumps(self._merge_candidates(concat(pieces)))
        elif key.startswith(value_counts.NUMBERS):
            counts = merge_counts(concat(pieces))
            name = key.removeprefix(value_counts.NUMBERS)
            yield json.dumps({"numbers": {name: number_statistics(counts)._asdict()}})
        else:
            name = key.removeprefix(value_counts.TOKENS)
            if config.candidate_id is None or name != config.candidate_id.name:
                features = config.query_features | config.candidate_features
                yield json.dumps(self._write_vocabulary(name, features[name], concat(pieces)))

    def _merge_candidates(self, counts: pa.Table) -> Summary:
        catalogue = load_catalogue(self._job)
        merged = value_counts.merge_candidate_counts(counts, len(catalogue))
        dense = {count_column(*codes): pa.array(values) for codes, values in merged.items()}
        filesystem.write_table(self._job.candidate_counts_path, pa.table(dense), self._job.staging)
        if self._job.config.candidate_id is None:
            return {}
        name, feature = self._job.config.candidate_id
        train_positives = merged[TRAIN, 1]
        table = pa.table({VALUE: catalogue.ids, COUNT: pa.array(train_positives)})
        return self._write_vocabulary(name, feature, table.filter(pa.array(train_positives > 0)))

    def _write_vocabulary(self, name: str, feature: Feature, counts: pa.Table) -> Summary:
        assert isinstance(feature, WITH_VOCABULARY)
        vocabulary = make_vocabulary(counts, feature.min_count, feature.max_size)
        path = join(self._job.vocabulary_dir, f"{name}.txt")
        filesystem.write_bytes(path, vocabulary.text, self._job.staging)
        size, digest = vocabulary.num_tokens, vocabulary.sha256
        return {"vocabularies": {name: {"size": size, "sha256": digest}}}


class WritePartition(beam.DoFn):
    """Writes examples, queries and known positives of a staged partition; gives a summary.

    Counters in namespace `examples`: `<split>.positives`, `<split>.negatives`,
    `filtered.<rule>`.
    """

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(
        self, number: int, cutoffs: tuple[int, int], num_queries: int, counted: Any
    ) -> Iterator[str]:
        """Takes the number of a partition."""
        job = self._job
        corpus = load_corpus(job)
        partition = job.read_described(number)
        if job.config.query_aggregates:
            of_queries = _audit_of_queries(job.config, partition, num_queries)
            yield json.dumps({"audit": of_queries._asdict()})
        splits = split_partition(job.config, partition, Cutoffs(*cutoffs), corpus.hashes)
        query_rows = column(filesystem.read_table(job.query_rows_path(number)), ROW).to_numpy()
        examples = Examples(job.config, partition, splits, query_rows, corpus)
        del partition
        encoder = _example_encoder(job, num_queries)
        length = job.config.history.feature.length if job.config.history else 0
        history_rows = examples.history_rows(length)
        arrays = encoder.arrays(examples, history_rows)
        records_digest = 0
        for code, split in enumerate(SPLITS):
            chosen = np.flatnonzero(examples.splits == code)
            stem = join(job.output, layout.EXAMPLES, f"{split}-{number:05d}")
            records_digest += write_records(stem, encoder.records(arrays, chosen), job.staging)
        positives = np.flatnonzero(examples.is_train_positive)
        if job.config.has_order and len(positives):
            path = join(job.output, layout.SEQUENCES, f"train-{number:05d}.tfrecord.gz")
            write_framed(path, encoder.sequences(arrays, positives), job.staging)
        for name, table in (
            (layout.QUERIES, examples.queries()),
            (layout.KNOWN_POSITIVES, examples.known_positives()),
        ):
            write_parquet(join(job.output, f"{name}-{number:05d}.parquet"), table, job.staging)
        summary = examples.summary()
        _count(summary)
        positions = sampled(examples, num_queries)
        audit = audit_examples(examples, history_rows, Cutoffs(*cutoffs), positions)
        counts = np.bincount(examples.catalogue_rows[positives], minlength=len(corpus.rows))
        digest = train_digest(corpus.hashes, counts)
        yield json.dumps(
            summary
            | {
                "audit": audit._asdict(),
                "train_digest": digest,
                "records_digests": {layout.EXAMPLES: records_digest},
            }
        )


class WriteCandidates(beam.DoFn):
    """Writes records and attributes of staged candidates; gives a summary."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(self, number: int, counted: Any) -> Iterator[str]:
        """Takes the number of a part."""
        job = self._job
        corpus = load_corpus(job)
        if job.has_candidates:
            candidates = job.read_candidates(number)
        else:
            members = pa.array(corpus.rows >= 0)
            candidates = pa.table({CANDIDATE_ID: corpus.catalogue.ids.filter(members)})
        # A worker sees each part once: no need to keep an index of the whole corpus for it.
        places = corpus.catalogue.rows(column(candidates, CANDIDATE_ID))
        rows = corpus.rows[places]
        if job.config.candidate_aggregates:
            at_end = filesystem.read_table(job.corpus_aggregates_path).take(pa.array(places))
            for name in at_end.column_names:
                candidates = candidates.append_column(name, at_end.column(name))
        encoder = _candidate_encoder(job)
        records = candidate_records(job.config, encoder, candidates, rows, len(corpus))
        stem = join(job.output, f"{layout.CANDIDATES}-{number:05d}")
        digest = write_records(stem, records, job.staging)
        attributes = candidate_attributes(job.config, candidates, rows)
        path = join(job.output, f"{layout.CANDIDATE_ATTRIBUTES}-{number:05d}.parquet")
        write_parquet(path, attributes, job.staging)
        yield json.dumps({"corpus_size": len(rows), "records_digests": {layout.CANDIDATES: digest}})


class WriteReport(beam.PTransform[PCollection[str], PCollection[None]]):
    """Merges all summaries into the report file."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, summaries: PCollection[str]) -> PCollection[None]:
        """Takes summaries as JSON."""
        return (
            summaries
            | "Together" >> beam.Map(lambda summary: (0, summary))
            | "AllSummaries" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write_report, self._job)
        )


def _write_report(element: tuple[int, Iterable[str]], job: Job) -> None:
    report = merge(map(json.loads, element[1]))
    filesystem.write_bytes(job.report_path, json.dumps(report).encode(), job.staging)


def _audit_of_queries(config: Config, partition: Partition, num_queries: int) -> Audit:
    """Looks at the aggregates of some queries."""
    events = events_of(partition.events, QUERY)
    hashes = hash_ids(column(partition.queries, QUERY_ID))
    positions = spread(events, np.flatnonzero(is_sampled(hashes, num_queries)))
    return audit_aggregates(config.query_aggregates, events, positions, partition.events)


def _count(summary: Summary) -> None:
    for split, counts in summary["examples"].items():
        for label, count in counts.items():
            Metrics.counter("examples", f"{split}.{label}").inc(count)
    for rule, count in summary["filtered"].items():
        Metrics.counter("examples", f"filtered.{rule}").inc(count)


@functools.lru_cache(maxsize=1)
def _example_encoder(job: Job, num_queries: int) -> ExampleEncoder:
    return ExampleEncoder(job.config, job.vocabulary_dir, load_corpus(job), num_queries)


@functools.lru_cache(maxsize=1)
def _candidate_encoder(job: Job) -> Encoder:
    return Encoder(job.config.candidate_features, job.vocabulary_dir)

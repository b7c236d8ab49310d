"""Beam transforms that write the files of the prepared folder, and the report of the job."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics

from pipelines.io import filesystem
from pipelines.io.output import WrittenFile
from pipelines.io.report import Summary, written_summary
from pipelines.io.shards import write_framed, write_parquet, write_records
from pipelines.io.tables import column, hash_ids
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
    Corpus,
    Job,
    load_corpus,
    local_vocabularies,
    once,
    read_partition,
)
from pipelines.prepare.partitions import QUERY, Partition
from pipelines.prepare.progress import WRITTEN, count
from pipelines.prepare.query_rows import rows_of
from pipelines.prepare.split import Cutoffs
from pipelines.prepare.validate import CANDIDATE_ID, QUERY_ID
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.schema import SPLITS, Config
from tfrs_twotower.schema import prepared as layout

STAGED, QUERY_ROWS = "staged", "query_rows"


class WritePartition(beam.DoFn):
    """Writes examples, queries and known positives of a staged partition; gives summaries.

    Counters in namespace `examples`: `<split>.positives`, `<split>.negatives`,
    `filtered.<rule>`.
    """

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(
        self,
        element: tuple[int, Mapping[str, Iterable[Any]]],
        cutoffs: tuple[int, int],
        num_queries: int,
        catalogue: str,
        candidate_counts: str,
        vocabularies: Mapping[str, str],
    ) -> Iterator[str]:
        """Writes a partition.

        Args:
            element: The number of the partition, its `STAGED` files and its `QUERY_ROWS`.
            cutoffs: Of the split.
            num_queries: In the whole data set.
            catalogue: Path of the known candidates.
            candidate_counts: Path of the events of each.
            vocabularies: Path by feature.
        """
        number, given = element
        [staged] = given[STAGED]
        job = self._job
        corpus = load_corpus(catalogue, candidate_counts)
        partition = read_partition(staged)
        if job.config.query_aggregates:
            of_queries = _audit_of_queries(job.config, partition, num_queries)
            yield json.dumps({"audit": of_queries._asdict()})
        splits = split_partition(job.config, partition, Cutoffs(*cutoffs), corpus.catalogue.hashes)
        examples = Examples(job.config, partition, splits, rows_of(given[QUERY_ROWS]), corpus)
        del partition
        encoder = _example_encoder(
            job, catalogue, candidate_counts, num_queries, tuple(sorted(vocabularies.items()))
        )
        length = job.config.history.feature.length if job.config.history else 0
        history_rows = examples.history_rows(length)
        files, digest = _write_examples(job, number, examples, encoder, history_rows)
        for name, table in (
            (layout.QUERIES, examples.queries()),
            (layout.KNOWN_POSITIVES, examples.known_positives()),
        ):
            files[name] = [write_parquet(job.run, f"{name}-{number:05d}", table)]
        count(WRITTEN)
        yield written_summary(files)
        summary = examples.summary()
        _count(summary)
        positions = sampled(examples, num_queries)
        audit = audit_examples(examples, history_rows, Cutoffs(*cutoffs), positions)
        yield json.dumps(
            summary
            | {
                "audit": audit._asdict(),
                "train_digest": _digest_of_train(examples),
                "records_digests": {layout.EXAMPLES: digest},
            }
        )


def _write_examples(
    job: Job, number: int, examples: Examples, encoder: ExampleEncoder, history_rows: np.ndarray
) -> tuple[dict[str, list[WrittenFile]], int]:
    """Writes the records of a partition; returns the files by what they hold, and a digest."""
    arrays = encoder.arrays(examples, history_rows)
    files, digest = {}, 0
    for code, split in enumerate(SPLITS):
        chosen = np.flatnonzero(examples.splits == code)
        name = f"{layout.EXAMPLES}/{split}"
        blocks = encoder.records(arrays, chosen)
        files[name], of_split = write_records(job.run, f"{name}-{number:05d}", blocks)
        digest += of_split
    positives = np.flatnonzero(examples.is_train_positive)
    if job.config.has_order and len(positives):
        sequences = encoder.sequences(arrays, positives)
        stem = f"{layout.TRAIN_SEQUENCES}-{number:05d}"
        files[layout.TRAIN_SEQUENCES] = [write_framed(job.run, stem, sequences)]
    return files, digest


def _digest_of_train(examples: Examples) -> int:
    """`train_digest` of the train positives of a partition, of the candidates that occur alone."""
    rows = examples.catalogue_rows[examples.is_train_positive]
    distinct, counts = np.unique(rows, return_counts=True)
    return train_digest(examples.corpus.catalogue.hashes[distinct], counts)


class WriteCandidates(beam.DoFn):
    """Writes records and attributes of staged candidates; gives summaries."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(
        self,
        part: tuple[int, str],
        catalogue: str,
        candidate_counts: str,
        vocabularies: Mapping[str, str],
        corpus_aggregates: str = "",
    ) -> Iterator[str]:
        """Writes a part of the candidates.

        Args:
            part: Its number and path; "": one of `Job.num_buckets` parts of the corpus itself, of
                ids alone.
            catalogue: Path of the known candidates.
            candidate_counts: Path of the events of each.
            vocabularies: Path by feature.
            corpus_aggregates: Path of the aggregates of each at the end of train.
        """
        job = self._job
        number, path = part
        corpus = load_corpus(catalogue, candidate_counts)
        if path:
            candidates = filesystem.read_table(path)
        else:
            candidates = _members(corpus, number, job.num_buckets)
        places = corpus.catalogue.rows(column(candidates, CANDIDATE_ID))
        rows = corpus.rows[places]
        if corpus_aggregates:
            at_end = filesystem.read_table(corpus_aggregates).take(pa.array(places))
            for name in at_end.column_names:
                candidates = candidates.append_column(name, at_end.column(name))
        encoder = _candidate_encoder(job, tuple(sorted(vocabularies.items())))
        blocks = candidate_records(job.config, encoder, candidates, rows, len(corpus))
        records = write_records(job.run, f"{layout.CANDIDATES}-{number:05d}", blocks)
        attributes = candidate_attributes(job.config, candidates, rows)
        stem = f"{layout.CANDIDATE_ATTRIBUTES}-{number:05d}"
        described = write_parquet(job.run, stem, attributes)
        yield written_summary(
            {layout.CANDIDATES: records.files, layout.CANDIDATE_ATTRIBUTES: [described]}
        )
        digests = {layout.CANDIDATES: records.digest}
        yield json.dumps({"corpus_size": len(rows), "records_digests": digests})


def _members(corpus: Corpus, number: int, num_parts: int) -> pa.Table:
    start, end = (len(corpus.rows) * n // num_parts for n in (number, number + 1))
    is_member = pa.array(corpus.rows[start:end] >= 0)
    return pa.table({CANDIDATE_ID: corpus.catalogue.ids[start:end].filter(is_member)})


def _audit_of_queries(config: Config, partition: Partition, num_queries: int) -> Audit:
    """Looks at the aggregates of some queries."""
    events = events_of(partition.events, QUERY)
    hashes = hash_ids(column(partition.queries, QUERY_ID))
    positions = spread(events, np.flatnonzero(is_sampled(hashes, num_queries)))
    return audit_aggregates(config.query_aggregates, events, positions, partition.events)


def _count(summary: Summary) -> None:
    for split, counts in summary["examples"].items():
        for label, number in counts.items():
            Metrics.counter("examples", f"{split}.{label}").inc(number)
    for rule, number in summary["filtered"].items():
        Metrics.counter("examples", f"filtered.{rule}").inc(number)


@once
def _example_encoder(
    job: Job,
    catalogue: str,
    candidate_counts: str,
    num_queries: int,
    vocabularies: tuple[tuple[str, str], ...],
) -> ExampleEncoder:
    corpus = load_corpus(catalogue, candidate_counts)
    with local_vocabularies(dict(vocabularies)) as folder:
        return ExampleEncoder(job.config, folder, corpus, num_queries)


@once
def _candidate_encoder(job: Job, vocabularies: tuple[tuple[str, str], ...]) -> Encoder:
    with local_vocabularies(dict(vocabularies)) as folder:
        return Encoder(job.config.candidate_features, folder)

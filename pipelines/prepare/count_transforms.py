"""Beam transforms that count the train part: vocabularies, statistics, events of candidates."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.sums import SumByKey
from pipelines.io.tables import buckets, column, from_ipc, joined, pieces_by, to_ipc
from pipelines.prepare import value_counts
from pipelines.prepare.examples import split_partition
from pipelines.prepare.job import (
    CORPUS_ROW,
    Job,
    StagedPartition,
    count_column,
    load_catalogue,
    read_partition,
)
from pipelines.prepare.number_statistics import COUNT, VALUE, DescribeNumbers
from pipelines.prepare.split import TRAIN, Cutoffs
from pipelines.prepare.validate import CANDIDATE_ROW
from pipelines.prepare.vocabularies import Vocabulary, frequent, make_vocabulary
from tfrs_twotower.schema.prepared import NumberStatistics

VOCABULARIES, CANDIDATE_COUNTS = "vocabularies", "candidate_counts"


class CountPartition(beam.DoFn):
    """Counts the train part of a staged partition."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(
        self, staged: StagedPartition, cutoffs: tuple[int, int], catalogue: str
    ) -> Iterator[tuple[str, bytes]]:
        """Takes a partition; gives counts by quantity, see `value_counts`."""
        config = self._job.config
        partition = read_partition(staged)
        hashes = load_catalogue(catalogue).hashes
        splits = split_partition(config, partition, Cutoffs(*cutoffs), hashes)
        for key, piece in value_counts.count_partition(config, partition, splits):
            yield key, to_ipc(piece)


class CountCandidates(beam.DoFn):
    """Counts the features of staged candidates."""

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        self._job = job

    def process(self, element: tuple[int, str]) -> Iterator[tuple[str, bytes]]:
        """Takes the number and the path of a part; gives counts by quantity."""
        candidates = filesystem.read_table(element[1])
        for key, piece in value_counts.count_candidates(self._job.config, candidates):
            yield key, to_ipc(piece)


class Counted(NamedTuple):
    """What is known of the train part."""

    vocabularies: PCollection[tuple[str, str]]  # Path by feature; "": no token.
    candidate_counts: PCollection[str]  # One path: events of catalogue rows by split and label.
    report: PCollection[str]


class MergeCounts(beam.PTransform[PCollection[tuple[str, bytes]], Counted]):
    """Merges counts by key into vocabularies, number statistics and counts of candidates.

    Counts of tokens and candidates are added up in buckets, and what is too rare for a vocabulary
    is left out there: only what may stand in it comes together.
    """

    def __init__(self, job: Job, catalogue: Any) -> None:
        """Takes the job and a side input, the path of the catalogue."""
        super().__init__()
        self._job, self._catalogue = job, catalogue

    @no_annotations
    def expand(self, pieces: PCollection[tuple[str, bytes]]) -> Counted:
        """Takes counts by quantity, see `value_counts`."""
        job = pieces.pipeline | "Job" >> beam.Create([self._job])
        seeds = job | "NoCounts" >> beam.FlatMap(_empty_pieces)
        counts = (pieces, seeds) | beam.Flatten()
        numbers = (
            counts
            | "Numbers" >> beam.Filter(lambda counted: _is_of_numbers(counted[0]))
            | "Describe" >> beam.CombinePerKey(DescribeNumbers())
            | "Statistics" >> beam.MapTuple(_statistics)
        )
        merged = (
            counts
            | "Others" >> beam.Filter(lambda counted: not _is_of_numbers(counted[0]))
            | "CutIntoBuckets" >> beam.FlatMap(_cut_into_buckets, self._job.num_buckets)
            | "AddUp" >> beam.CombinePerKey(SumByKey([COUNT]))
            | "LeaveOutRare" >> beam.Map(_without_rare, self._job)
            | "ByQuantity" >> beam.GroupByKey()
            | "Merge"
            >> beam.ParDo(_MergeCounts(self._job), self._catalogue).with_outputs(
                VOCABULARIES, CANDIDATE_COUNTS, main="report"
            )
        )
        report = (merged.report, numbers) | "Reports" >> beam.Flatten()
        return Counted(merged[VOCABULARIES], merged[CANDIDATE_COUNTS], report)


def _empty_pieces(job: Job) -> Iterator[tuple[str, bytes]]:
    for key, piece in value_counts.empty_pieces(job.config):
        yield key, to_ipc(piece)


def _is_of_numbers(key: str) -> bool:
    return key.startswith(value_counts.NUMBERS)


def _statistics(key: str, statistics: NumberStatistics) -> str:
    return json.dumps({"numbers": {key.removeprefix(value_counts.NUMBERS): statistics._asdict()}})


def _cut_into_buckets(
    element: tuple[str, bytes], num_buckets: int
) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Counts by quantity and bucket; where there are none, they stand in the first."""
    key, data = element
    counts = from_ipc(data)
    if num_buckets == 1 or not len(counts):
        yield (key, 0), data
        return
    if key == value_counts.CANDIDATES:
        numbers = column(counts, CANDIDATE_ROW).to_numpy() % num_buckets
    else:
        numbers = buckets(column(counts, VALUE), num_buckets)
    for number, part in pieces_by(counts, numbers):
        yield (key, number), to_ipc(part)


def _without_rare(element: tuple[tuple[str, int], pa.Table], job: Job) -> tuple[str, str]:
    """A file of a bucket's counts by quantity, of tokens those that may stand in the vocabulary."""
    (key, _), counts = element
    if key != value_counts.CANDIDATES:
        feature = _feature_of(key, job)
        counts = frequent(counts, feature.min_count, feature.max_size)
    return key, job.stage("counts", counts)


def _feature_of(key: str, job: Job) -> Any:
    features = job.config.query_features | job.config.candidate_features
    return features[key.removeprefix(value_counts.TOKENS)]


class _MergeCounts(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, Iterable[str]], catalogue: str) -> Iterator[Any]:
        key, paths = element
        counts = joined(map(filesystem.read_table, paths))
        config = self._job.config
        if key == value_counts.CANDIDATES:
            yield from self._merge_candidates(counts, catalogue)
            return
        name = key.removeprefix(value_counts.TOKENS)
        # The ids of candidates are counted by their rows.
        if config.candidate_id is None or name != config.candidate_id.name:
            feature = _feature_of(key, self._job)
            yield from self._stage_vocabulary(
                name, make_vocabulary(counts, feature.min_count, feature.max_size)
            )

    def _merge_candidates(self, counts: pa.Table, path: str) -> Iterator[Any]:
        catalogue = load_catalogue(path)
        merged = value_counts.merge_candidate_counts(counts, len(catalogue))
        dense = {count_column(*codes): pa.array(values) for codes, values in merged.items()}
        corpus_rows = value_counts.corpus_rows(merged, self._job.corpus)
        dense[CORPUS_ROW] = pa.array(corpus_rows)
        yield TaggedOutput(CANDIDATE_COUNTS, self._job.stage(CANDIDATE_COUNTS, pa.table(dense)))
        config, positives = self._job.config, merged[TRAIN, 1]
        table = pa.table({VALUE: catalogue.ids, COUNT: pa.array(positives)})
        if config.candidate_id is not None:
            name, feature = config.candidate_id
            of_train = table.filter(pa.array(positives > 0))
            yield from self._stage_vocabulary(
                name, make_vocabulary(of_train, feature.min_count, feature.max_size)
            )
        if config.history is not None and config.history_candidate_features:
            corpus = table.filter(pa.array(corpus_rows >= 0))
            yield from self._stage_vocabulary(
                config.history.name, make_vocabulary(corpus, min_count=0, max_size=None)
            )

    def _stage_vocabulary(self, name: str, vocabulary: Vocabulary) -> Iterator[Any]:
        path = ""  # Of a vocabulary without tokens.
        if vocabulary.text:
            path = self._job.run.staged_path(f"vocabularies/{name}", ".txt")
            filesystem.write_bytes(path, vocabulary.text)
        yield TaggedOutput(VOCABULARIES, (name, path))
        size, digest = vocabulary.num_tokens, vocabulary.sha256
        yield json.dumps({"vocabularies": {name: {"size": size, "sha256": digest, "path": path}}})

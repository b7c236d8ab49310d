"""Beam transforms that read files: sound rows are cut into partitions, the others get a reason."""

import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.tables import column, dictionary, partition, to_ipc
from pipelines.prepare.dataset_files import CANDIDATES, INTERACTIONS, QUERIES, Chunk, needed_columns
from pipelines.prepare.job import Job, load_catalogue
from pipelines.prepare.parsing import RawBatch, Reject, read_chunk
from pipelines.prepare.progress import note_read
from pipelines.prepare.summary import Summary
from pipelines.prepare.validate import (
    CANDIDATE_ID,
    QUERY_ID,
    REASONS,
    Catalogue,
    Validated,
    numeric_columns,
    validate_entities,
    validate_events,
)
from tfrs_twotower.schema import Config
from tfrs_twotower.schema import prepared as layout

REJECTED, REPORT, CANDIDATE_IDS = "rejected", "report", "candidate_ids"
# Columns that say where an entity was read, to find the first of several.
FILE, CHUNK, ROW = "file", "chunk", "row"
ORIGIN = (FILE, CHUNK, ROW)


class Pieces(NamedTuple):
    """What `ReadFiles` gives."""

    tables: PCollection[tuple[int, bytes]]  # Arrow IPC by number of partition.
    rejected: PCollection[tuple[str, bytes]]  # See `WriteRejected`, by file name.
    report: PCollection[str]  # Summaries as JSON.
    candidate_ids: PCollection[tuple[int, bytes]]  # Distinct ids of events without catalogue.


class ReadFiles(beam.PTransform[beam.Pipeline, Pieces]):
    """Reads and checks one kind of file, and cuts it into partitions by hash of the id.

    Counters in namespace `read`: `records` and `rejected.<reason>`.
    """

    def __init__(self, job: Job, kind: str, chunks: Collection[Chunk], catalogue: Any) -> None:
        """Takes the chunks of a kind.

        Args:
            job: The job.
            kind: See `dataset_files`.
            chunks: All of that kind; may be none.
            catalogue: Side input that is ready when the catalogue is; None where all candidate
                ids are welcome.
        """
        super().__init__()
        self._job, self._kind, self._chunks = job, kind, list(chunks)
        self._catalogue = catalogue

    @no_annotations
    def expand(self, pipeline: beam.Pipeline) -> Pieces:
        """Applies the transform to a pipeline."""
        chunks = (
            pipeline
            | "Chunks" >> beam.Create([tuple(chunk) for chunk in self._chunks])
            | "Spread" >> beam.Reshuffle()
        )
        read = _ReadChunk(self._job, self._kind, self._catalogue is not None)
        ready = [] if self._catalogue is None else [self._catalogue]
        outputs = chunks | "Read" >> beam.ParDo(read, *ready).with_outputs(
            REJECTED, REPORT, CANDIDATE_IDS, main="tables"
        )
        return Pieces(outputs.tables, outputs[REJECTED], outputs[REPORT], outputs[CANDIDATE_IDS])


class _ReadChunk(beam.DoFn):
    def __init__(self, job: Job, kind: str, has_catalogue: bool) -> None:
        self._job, self._kind, self._has_catalogue = job, kind, has_catalogue

    def setup(self) -> None:
        self._columns = list(needed_columns(self._job.config, self._kind))
        self._numeric = numeric_columns(self._job.config)

    def process(self, element: tuple[Any, ...], *ready: Any) -> Iterator[Any]:
        chunk = Chunk(*element)
        num_read, rejects = 0, []
        failures = []
        try:
            for batch in read_chunk(chunk, self._columns, self._numeric):
                num_read += batch.num_read
                valid = self._validate(batch)
                rejects += batch.rejects
                for row in np.flatnonzero(valid.reasons >= 0).tolist():
                    rejects.append(batch.rejected(row, REASONS[valid.reasons[row]]))
                yield from self._cut(chunk, batch, valid)
        except (OSError, pa.ArrowException) as error:
            failures.append(f"cannot read {chunk.path}: {str(error).splitlines()[0]}")
        except Exception as error:
            raise RuntimeError(
                f"reading {chunk.path}, part {chunk.number} ({chunk.start} to {chunk.end}): {error}"
            ) from error
        note_read(self._job.staging, chunk, num_read)
        yield from _accounts(chunk, num_read, rejects, failures)

    def _validate(self, batch: RawBatch) -> Validated:
        if self._kind == INTERACTIONS:
            catalogue = load_catalogue(self._job) if self._has_catalogue else None
            return validate_events(batch.table, self._job.config, catalogue)
        side = "candidate" if self._kind == CANDIDATES else "query"
        return validate_entities(batch.table, self._job.config, side)

    def _cut(self, chunk: Chunk, batch: RawBatch, valid: Validated) -> Iterator[Any]:
        table = valid.table
        num_partitions = self._job.num_partitions
        if self._kind == INTERACTIONS:
            ids = column(table, QUERY_ID)
            if not self._has_catalogue:
                distinct = column(table, CANDIDATE_ID).unique()
                ids_table = pa.table({CANDIDATE_ID: distinct.dictionary_decode()})
                yield TaggedOutput(CANDIDATE_IDS, (0, to_ipc(ids_table)))
        else:
            rows = batch.rows[valid.reasons < 0]
            table = _with_origin(table, chunk.name, chunk.number, rows)
            ids = dictionary(
                column(table, QUERY_ID if QUERY_ID in table.column_names else CANDIDATE_ID)
            )
            if self._kind == CANDIDATES:
                num_partitions = self._job.num_candidate_partitions
        for number, part in partition(table, ids, num_partitions):
            yield number, to_ipc(part)


def _with_origin(table: pa.Table, file: str, chunk: int, rows: np.ndarray) -> pa.Table:
    table = table.append_column(FILE, pa.array([file] * len(rows), pa.string()))
    table = table.append_column(CHUNK, pa.array([chunk] * len(rows), pa.int64()))
    return table.append_column(ROW, pa.array(rows, pa.int64()))


def no_events(config: Config, has_candidates: bool) -> pa.Table:
    """Sound events, but none: what columns they have."""
    catalogue = Catalogue(pa.array([], pa.string())) if has_candidates else None
    return validate_events(_no_rows(config, INTERACTIONS), config, catalogue).table


def no_profiles(config: Config) -> pa.Table:
    """Sound rows of queries files with their origin, but none."""
    table = validate_entities(_no_rows(config, QUERIES), config, "query").table
    return _with_origin(table, "", 0, np.zeros(0, np.int64))


def _no_rows(config: Config, kind: str) -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in needed_columns(config, kind)})


def _accounts(
    chunk: Chunk, num_read: int, rejects: list[Reject], failures: list[str]
) -> Iterator[TaggedOutput[str, Any]]:
    """The report of a chunk, its size for the numbering of rejects, and the rejects."""
    reasons = Counter(reject.reason for reject in rejects)
    summary: Summary = {
        "files": {chunk.name: {"read": num_read, "rejected": len(rejects)}},
        "kinds": {chunk.kind: {"read": num_read, "rejected": dict(reasons)}},
        "failures": failures,
    }
    yield TaggedOutput(REPORT, json.dumps(summary))
    yield TaggedOutput(REJECTED, (chunk.name, rejected_element(chunk.number, num_read, rejects)))
    Metrics.counter("read", "records").inc(num_read)
    for reason, count in reasons.items():
        Metrics.counter("read", f"rejected.{reason}").inc(count)


def rejected_element(chunk_number: int, num_read: int, rejects: list[Reject]) -> bytes:
    """What `WriteRejected` must know of a chunk: how many records it holds, and its rejects."""
    return json.dumps([chunk_number, num_read, rejects]).encode()


class WriteRejected(beam.PTransform[PCollection[tuple[str, bytes]], PCollection[None]]):
    """Writes the rejected records of each input file to `rejected/<file>.jsonl`.

    A line is `{"file", "row", "reason", "record"}`; `row` counts the records of the file from 1,
    without the header and blank lines.
    """

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, rejected: PCollection[tuple[str, bytes]]) -> PCollection[None]:
        """Takes `rejected_element`s by file name."""
        return (
            rejected
            | "ByFile" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_WriteRejects(self._job))
        )


class _WriteRejects(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, Any]) -> None:
        name, parts = element
        chunks = sorted(json.loads(part) for part in parts)
        sizes: Counter[int] = Counter()
        for number, num_read, _ in chunks:
            sizes[number] += num_read
        before, total = {}, 0
        for number in sorted(sizes):
            before[number] = total
            total += sizes[number]
        lines = sorted(
            (before[number] + row + 1, reason, record)
            for number, _, rejects in chunks
            for row, reason, record in rejects
        )
        if not lines:
            return
        path = join(self._job.output, layout.REJECTED, f"{name}.jsonl")
        with filesystem.create(path, self._job.staging) as file:
            for row, reason, record in lines:
                fields = {"file": name, "row": row, "reason": reason, "record": record}
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")

"""Beam transforms that read files: sound rows are cut into partitions, the others get a reason."""

import heapq
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines import UNREADABLE
from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.report import Summary, written_summary
from pipelines.io.tables import buckets, column, dictionary, partition, pieces_by, to_ipc
from pipelines.prepare.cache import batches_of
from pipelines.prepare.catalogue import Catalogue, catalogue_table
from pipelines.prepare.dataset_files import CANDIDATES, INTERACTIONS, QUERIES, Chunk, needed_columns
from pipelines.prepare.job import Job, load_catalogue
from pipelines.prepare.parsing import RawBatch, Reject
from pipelines.prepare.progress import CHUNKS, ROWS, count
from pipelines.prepare.validate import (
    CANDIDATE_ID,
    QUERY_ID,
    REASONS,
    Validated,
    numeric_columns,
    validate_entities,
    validate_events,
)
from tfrs_twotower.schema import Config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.errors import first_line

REJECTED, REPORT, CANDIDATE_IDS = "rejected", "report", "candidate_ids"
# Columns that say where an entity was read, to find the first of several.
FILE, CHUNK, ROW = "file", "chunk", "row"
ORIGIN = (FILE, CHUNK, ROW)
MAX_REJECTS_KEPT = 1000  # Of a reason and file.
MAX_RECORD_CHARACTERS = 10_000


class Pieces(NamedTuple):
    """What `ReadFiles` gives."""

    tables: PCollection[tuple[int, bytes]]  # Arrow IPC by number of partition.
    rejected: PCollection[tuple[str, bytes]]  # See `WriteRejected`, by file name.
    report: PCollection[str]  # Summaries as JSON.
    candidate_ids: PCollection[tuple[int, bytes]]  # Of events without catalogue, by bucket.


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
            catalogue: Side input, the path of the catalogue; None where all candidate ids are
                welcome.
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
        read = _ReadChunk(self._job, self._kind)
        catalogue = [] if self._catalogue is None else [self._catalogue]
        outputs = chunks | "Read" >> beam.ParDo(read, *catalogue).with_outputs(
            REJECTED, REPORT, CANDIDATE_IDS, main="tables"
        )
        return Pieces(outputs.tables, outputs[REJECTED], outputs[REPORT], outputs[CANDIDATE_IDS])


class _ReadChunk(beam.DoFn):
    def __init__(self, job: Job, kind: str) -> None:
        self._job, self._kind = job, kind

    def setup(self) -> None:
        self._columns = list(needed_columns(self._job.config, self._kind))
        self._numeric = numeric_columns(self._job.config)

    def process(self, element: tuple[Any, ...], catalogue: str | None = None) -> Iterator[Any]:
        chunk = Chunk(*element)
        num_read, rejects = 0, Rejects()
        try:
            for batch in batches_of(chunk, self._columns, self._numeric):
                num_read += batch.num_read
                valid = self._validate(batch, catalogue)
                rejects.add(batch, valid)
                yield from self._cut(chunk, batch, valid, catalogue)
        except (OSError, pa.ArrowException) as error:
            # Raised on: the runner tries the chunk again. See `manifest.unreadable`.
            raise OSError(f"{UNREADABLE} {chunk.path}: {first_line(error)}") from error
        except Exception as error:
            raise RuntimeError(
                f"reading {chunk.path}, part {chunk.number} ({chunk.start} to {chunk.end}): {error}"
            ) from error
        count(CHUNKS)
        count(ROWS, num_read)
        yield from _accounts(chunk, num_read, rejects)

    def _validate(self, batch: RawBatch, catalogue: str | None) -> Validated:
        if self._kind == INTERACTIONS:
            known = None if catalogue is None else load_catalogue(catalogue)
            return validate_events(batch.table, self._job.config, known)
        side = "candidate" if self._kind == CANDIDATES else "query"
        return validate_entities(batch.table, self._job.config, side)

    def _cut(
        self, chunk: Chunk, batch: RawBatch, valid: Validated, catalogue: str | None
    ) -> Iterator[Any]:
        table = valid.table
        num_partitions = self._job.num_partitions
        if self._kind == INTERACTIONS:
            ids = column(table, QUERY_ID)
            if catalogue is None:
                distinct = column(table, CANDIDATE_ID).unique().dictionary_decode()
                ids_table = pa.table({CANDIDATE_ID: distinct})
                for bucket, part in pieces_by(ids_table, buckets(distinct, self._job.num_buckets)):
                    yield TaggedOutput(CANDIDATE_IDS, (bucket, to_ipc(part)))
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
    nothing = catalogue_table(pa.array([], pa.string()))
    catalogue = Catalogue(nothing) if has_candidates else None
    return validate_events(_no_rows(config, INTERACTIONS), config, catalogue).table


def no_profiles(config: Config) -> pa.Table:
    """Sound rows of queries files with their origin, but none."""
    table = validate_entities(_no_rows(config, QUERIES), config, "query").table
    return _with_origin(table, "", 0, np.zeros(0, np.int64))


def _no_rows(config: Config, kind: str) -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in needed_columns(config, kind)})


class Rejects:
    """The rejects of a chunk: all are counted, the first of each reason are kept."""

    def __init__(self) -> None:
        """None yet."""
        self.counts: Counter[str] = Counter()
        self.kept: list[Reject] = []

    def add(self, batch: RawBatch, valid: Validated) -> None:
        """Adds those of a batch."""
        of_reason: dict[str, list[Reject]] = {}
        for reject in sorted(batch.rejects):
            of_reason.setdefault(reject.reason, []).append(reject)
        for reason, rejects in of_reason.items():
            self.kept += rejects[: self._room(reason)]
            self.counts[reason] += len(rejects)
        for code in np.unique(valid.reasons[valid.reasons >= 0]).tolist():
            reason = REASONS[code]
            rows = np.flatnonzero(valid.reasons == code)
            kept = rows[: self._room(reason)].tolist()
            self.kept += [batch.rejected(row, reason) for row in kept]
            self.counts[reason] += len(rows)

    def _room(self, reason: str) -> int:
        return max(MAX_REJECTS_KEPT - self.counts[reason], 0)


def _accounts(chunk: Chunk, num_read: int, rejects: Rejects) -> Iterator[TaggedOutput[str, Any]]:
    """The report of a chunk, its size for the numbering of rejects, and the rejects."""
    num_rejected = rejects.counts.total()
    summary: Summary = {
        "files": {chunk.name: {"read": num_read, "rejected": num_rejected}},
        "kinds": {chunk.kind: {"read": num_read, "rejected": dict(rejects.counts)}},
    }
    yield TaggedOutput(REPORT, json.dumps(summary))
    element = rejected_element(chunk.number, num_read, rejects.kept)
    yield TaggedOutput(REJECTED, (chunk.name, element))
    Metrics.counter("read", "records").inc(num_read)
    for reason, number in rejects.counts.items():
        Metrics.counter("read", f"rejected.{reason}").inc(number)


def rejected_element(chunk_number: int, num_read: int, rejects: list[Reject]) -> bytes:
    """What `WriteRejected` must know of a chunk: how many records it holds, and its rejects."""
    shortened = [(row, reason, record[:MAX_RECORD_CHARACTERS]) for row, reason, record in rejects]
    return json.dumps([chunk_number, num_read, shortened]).encode()


class FirstRejects(beam.CombineFn):
    """The first rejects of each reason of a file, and the size of each of its chunks.

    What is kept of a file is bounded, however much of it is rejected.
    """

    def create_accumulator(self) -> tuple[Counter[int], dict[str, list[Any]]]:
        """Of no chunk."""
        return Counter(), {}

    def add_input(self, accumulator: Any, element: bytes) -> Any:
        """Adds a `rejected_element`."""
        sizes, kept = accumulator
        number, num_read, rejects = json.loads(element)
        sizes[number] += num_read
        for row, reason, record in rejects:
            kept.setdefault(reason, []).append((number, row, record))
        return sizes, {reason: _first(listed) for reason, listed in kept.items()}

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        """Adds chunks that were added apart."""
        sizes: Counter[int] = Counter()
        kept: dict[str, list[Any]] = {}
        for other_sizes, other_kept in accumulators:
            sizes.update(other_sizes)
            for reason, listed in other_kept.items():
                kept[reason] = _first(kept.get(reason, []) + listed)
        return sizes, kept

    def extract_output(self, accumulator: Any) -> list[tuple[int, str, str]]:
        """Number of the record in the file from 1, reason and record of each, sorted."""
        sizes, kept = accumulator
        before, total = {}, 0
        for number in sorted(sizes):
            before[number] = total
            total += sizes[number]
        return sorted(
            (before[number] + row + 1, reason, record)
            for reason, listed in kept.items()
            for number, row, record in listed
        )


def _first(rejects: list[Any]) -> list[Any]:
    return heapq.nsmallest(MAX_REJECTS_KEPT, rejects)


class WriteRejected(beam.PTransform[PCollection[tuple[str, bytes]], PCollection[str]]):
    """Writes the first rejected records of each input file to `rejected/<file>-*.jsonl`.

    A line is `{"file", "row", "reason", "record"}`; `row` counts the records of the file from 1,
    without the header and blank lines. Of each reason the first `MAX_REJECTS_KEPT` are written.
    Gives summaries that name the files.
    """

    def __init__(self, job: Job) -> None:
        """Takes the job."""
        super().__init__()
        self._job = job

    def expand(self, rejected: PCollection[tuple[str, bytes]]) -> PCollection[str]:
        """Takes `rejected_element`s by file name."""
        return (
            rejected
            | "OfFile" >> beam.CombinePerKey(FirstRejects())
            | "Write" >> beam.ParDo(_WriteRejects(self._job))
        )


class _WriteRejects(beam.DoFn):
    def __init__(self, job: Job) -> None:
        self._job = job

    def process(self, element: tuple[str, list[tuple[int, str, str]]]) -> Iterator[str]:
        name, lines = element
        if not lines:
            return
        run = self._job.run
        path = run.new_path(join(layout.REJECTED, name.replace("/", "-")), ".jsonl")
        with filesystem.create(path) as file:
            for row, reason, record in lines:
                fields = {"file": name, "row": row, "reason": reason, "record": record}
                file.write(json.dumps(fields, ensure_ascii=False).encode() + b"\n")
        yield written_summary({layout.REJECTED: [run.written(path, file, len(lines))]})

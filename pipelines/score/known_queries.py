"""What the models folder knows of queries, brought to those that ask.

A job joins both by id: what it reads grows with the queries that ask and with those known, but not
with one times the other, and no worker holds more than one bucket of ids.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.pvalue import PCollection
from apache_beam.typehints.decorators import no_annotations

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.tables import buckets, column, concat, from_ipc, joined, pieces_by, to_ipc
from tfrs_twotower.schema.models_layout import QUERY_KEY

BUCKET_BYTES = 32 << 20  # Of Parquet, a fifth of what it takes in memory.
ASKED, KNOWN, TABLE = "asked", "known", "table"


class Stored(NamedTuple):
    """The files of what is known of queries."""

    groups: list[tuple[str, int]]  # Path and number of each row group.
    num_bytes: int
    key: str  # The column of ids.
    nothing: bytes  # All columns, without a row: an Arrow IPC stream.


def open_stored(folder: str) -> Stored:
    """Looks at the files of a folder; reads none of their rows."""
    groups, num_bytes = [], 0
    for path, size in filesystem.match(join(folder, "*.parquet")):
        with filesystem.open_raw(path) as file:
            of_file = pq.ParquetFile(file)
            groups += [(path, number) for number in range(of_file.num_row_groups)]
            schema = of_file.schema_arrow
        num_bytes += size
    key = schema.metadata[QUERY_KEY].decode()
    return Stored(groups, num_bytes, key, to_ipc(schema.empty_table()))


def find_known(stored: Stored, ids: pa.Array) -> pa.Table:
    """What is known of a few queries, each at most once, in any order."""
    found = [from_ipc(stored.nothing)]
    for path in dict.fromkeys(path for path, _ in stored.groups):
        with filesystem.open_raw(path) as file:
            found.append(pq.read_table(file, filters=pc.field(stored.key).isin(pc.unique(ids))))
    return joined(found)


class JoinKnown(
    beam.PTransform[PCollection[tuple[str, bytes]], PCollection[tuple[str, tuple[bytes, bytes]]]]
):
    """Tables of queries by name -> the same, each with what is known of its queries."""

    def __init__(self, stored: Stored) -> None:
        """Takes the files."""
        super().__init__()
        self._stored = stored

    @no_annotations
    def expand(
        self, tables: PCollection[tuple[str, bytes]]
    ) -> PCollection[tuple[str, tuple[bytes, bytes]]]:
        """Takes Arrow IPC streams; each name once."""
        key, num_buckets = self._stored.key, 1 + self._stored.num_bytes // BUCKET_BYTES
        known = (
            tables.pipeline
            | "RowGroups" >> beam.Create(self._stored.groups)
            | "SpreadRowGroups" >> beam.Reshuffle()
            | "ReadKnown" >> beam.FlatMap(_read_group, key, num_buckets)
        )
        asked = tables | "Ask" >> beam.FlatMap(_ids_asked, key, num_buckets)
        found = (
            {ASKED: asked, KNOWN: known}
            | "ByBucket" >> beam.CoGroupByKey()
            | "Find" >> beam.FlatMap(_find, key)
        )
        return (
            {TABLE: tables, KNOWN: found}
            | "ByTable" >> beam.CoGroupByKey()
            | "Together" >> beam.Map(_together, self._stored.nothing)
        )


def _read_group(group: tuple[str, int], key: str, num_buckets: int) -> Iterator[tuple[int, bytes]]:
    path, number = group
    with filesystem.open_raw(path) as file:
        table = pq.ParquetFile(file).read_row_group(number)
    for bucket, piece in pieces_by(table, buckets(column(table, key), num_buckets)):
        yield bucket, to_ipc(piece)


def _ids_asked(
    named: tuple[str, bytes], key: str, num_buckets: int
) -> Iterator[tuple[int, tuple[str, bytes]]]:
    name, data = named
    ids = pc.unique(column(from_ipc(data), key))
    for bucket, piece in pieces_by(pa.table({key: ids}), buckets(ids, num_buckets)):
        yield bucket, (name, to_ipc(piece))


def _find(bucket: tuple[int, Mapping[str, Iterable[Any]]], key: str) -> Iterator[tuple[str, bytes]]:
    """What is known of a bucket's ids, for each table that asks."""
    _, given = bucket
    asked, pieces = list(given[ASKED]), list(given[KNOWN])
    if not asked or not pieces:
        return
    tables = [from_ipc(ids) for _, ids in asked]
    known = concat(pieces)
    known_ids = column(known, key)
    # Of all tables at once: each look-up hashes all known ids of the bucket.
    places = pc.index_in(column(joined(tables), key).cast(known_ids.type), known_ids)
    numbers = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    is_known = places.is_valid()
    found = known.take(places.filter(is_known))
    numbers = numbers[is_known.to_numpy(zero_copy_only=False)]
    for number, piece in pieces_by(found, numbers):
        yield asked[number][0], to_ipc(piece)


def _together(
    named: tuple[str, Mapping[str, Iterable[bytes]]], nothing: bytes
) -> tuple[str, tuple[bytes, bytes]]:
    name, given = named
    [table] = given[TABLE]
    return name, (table, to_ipc(concat([nothing, *given[KNOWN]])))

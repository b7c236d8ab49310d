"""Beam transforms that number all queries in the order of their ids.

A distributed sort: a sample of the ids cuts their order into ranges, each range ranks the ids that
fall into it, and the row of a query is its rank and how many ids the ranges before hold. No worker
sees the ids of more than one range, and the rows do not depend on where the order was cut.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsDict, AsSingleton, PCollection, TaggedOutput
from apache_beam.typehints.decorators import no_annotations

from pipelines.io.tables import column, concat, from_ipc, hash_ids, to_ipc
from pipelines.prepare.validate import QUERY_ID

MAX_RANGES = 256
SAMPLED_A_RANGE = 64  # A range then holds a share of the ids that is off by an eighth (1 sigma).
SAMPLED_A_PARTITION = 256
HASH, SIZES = "hash", "sizes"

RowsOfRange = tuple[int, bytes]
"""Number of a range, and the int64 rows of some queries of it in the order of their ids."""


class Numbered(NamedTuple):
    """The rows of all queries."""

    rows: PCollection[tuple[int, RowsOfRange]]  # By number of partition; see `rows_of`.
    num_queries: PCollection[int]  # One element.


class NumberQueries(beam.PTransform[PCollection[tuple[int, bytes]], Numbered]):
    """Numbers queries from 0 in the order of their ids, as UTF-8 bytes."""

    def __init__(self, num_partitions: int) -> None:
        """Takes the number of partitions, about as many as there will be ranges."""
        super().__init__()
        self._num_ranges = min(num_partitions, MAX_RANGES)

    @no_annotations
    def expand(self, ids: PCollection[tuple[int, bytes]]) -> Numbered:
        """Takes the ids of each partition, sorted and distinct, by its number."""
        cuts = (
            ids
            | "Sample" >> beam.MapTuple(lambda number, data: _sampled(data))
            | "Cuts" >> beam.CombineGlobally(_FindCuts(self._num_ranges))
        )
        ranked = (
            ids
            | "CutIntoRanges" >> beam.FlatMap(_cut, AsSingleton(cuts))
            | "ByRange" >> beam.GroupByKey()
            | "Rank" >> beam.ParDo(_Rank()).with_outputs(SIZES, main="ranks")
        )
        sizes = ranked[SIZES]
        rows = ranked.ranks | "AddRangesBefore" >> beam.Map(_with_offset, AsDict(sizes))
        num_queries = sizes | "Sizes" >> beam.Values() | "Total" >> beam.CombineGlobally(sum)
        return Numbered(rows, num_queries)


def rows_of(pieces: Iterable[RowsOfRange]) -> np.ndarray:
    """`[num_queries]` int64 rows of a partition's queries, from the pieces of all ranges."""
    return np.frombuffer(b"".join(rows for _, rows in sorted(pieces)), np.int64)


def _sampled(data: bytes) -> bytes:
    """The ids with the smallest hashes, and these."""
    ids = from_ipc(data)
    hashes = hash_ids(column(ids, QUERY_ID))
    order = np.argsort(hashes)[:SAMPLED_A_PARTITION]
    return to_ipc(ids.take(pa.array(order)).append_column(HASH, pa.array(hashes[order])))


class _FindCuts(beam.CombineFn):
    """Samples -> the first ids of all ranges but the first."""

    def __init__(self, num_ranges: int) -> None:
        self._num_ranges = num_ranges

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, accumulator: list[bytes], sample: bytes) -> list[bytes]:
        return self.merge_accumulators([accumulator, [sample]])

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        samples = [sample for accumulator in accumulators for sample in accumulator]
        if len(samples) < 2:
            return samples
        merged = concat(samples).sort_by(HASH)
        return [to_ipc(merged.slice(0, self._num_ranges * SAMPLED_A_RANGE))]

    def extract_output(self, accumulator: list[bytes]) -> list[str]:
        if not accumulator:
            return []
        ids = column(from_ipc(accumulator[0]), QUERY_ID)
        ids = ids.take(pc.sort_indices(ids))
        places = len(ids) * np.arange(1, self._num_ranges) // self._num_ranges
        cuts: list[str] = pc.unique(ids.take(pa.array(places))).to_pylist() if len(ids) else []
        return cuts


def _cut(element: tuple[int, bytes], cuts: list[str]) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """The part of a partition's ids in each range, with the number of the partition."""
    number, data = element
    table = from_ipc(data)
    ids = column(table, QUERY_ID)
    # Python orders texts by code point, which is the order of their UTF-8 bytes.
    found = (bisect_left(ids, cut, key=pa.StringScalar.as_py) for cut in cuts)
    for place, (start, end) in enumerate(pairwise([0, *found, len(ids)])):
        if end > start:
            yield place, (number, to_ipc(table.take(pa.array(range(start, end)))))


class _Rank(beam.DoFn):
    """Ranks the ids of one range; gives the ranks by partition, and how many ids there are."""

    def process(self, element: tuple[int, Iterable[tuple[int, bytes]]]) -> Iterator[Any]:
        place, pieces = element
        numbers, tables = zip(*pieces, strict=True)
        ids = column(concat(tables), QUERY_ID)
        ranks = np.empty(len(ids), np.int64)
        ranks[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids))
        ends = np.cumsum([len(from_ipc(table)) for table in tables])
        # The ids of a partition came in their order, so its ranks do too.
        for number, of_partition in zip(numbers, np.split(ranks, ends[:-1]), strict=True):
            yield number, (place, of_partition.tobytes())
        yield TaggedOutput(SIZES, (place, len(ids)))


def _with_offset(
    element: tuple[int, RowsOfRange], sizes: Mapping[int, int]
) -> tuple[int, RowsOfRange]:
    number, (place, data) = element
    before = sum(size for other, size in sizes.items() if other < place)
    return number, (place, (np.frombuffer(data, np.int64) + before).tobytes())

"""Queries are numbered in the order of their ids, wherever the order is cut."""

import random

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from pipelines.io.tables import from_ipc, to_ipc
from pipelines.prepare import query_rows
from pipelines.prepare.query_rows import NumberQueries, rows_of


def make_ids(chance, size=500):
    return {
        f"{chance.choice(['u', 'é', '𝄞', 'Z', ''])}{chance.randrange(10**6)}" for _ in range(size)
    }


@pytest.mark.parametrize(("num_ranges", "sampled"), [(4, 64), (7, 1)])
def test_rows_follow_the_bytes_of_the_ids(monkeypatch, num_ranges, sampled):
    monkeypatch.setattr(query_rows, "SAMPLED_A_RANGE", sampled)
    chance = random.Random(num_ranges)
    ids = make_ids(chance)
    # Partition 9 has lost all its queries.
    parts = {9: []}
    for query_id in ids:
        parts.setdefault(chance.randrange(5), []).append(query_id)
    for part in parts.values():
        part.sort(key=str.encode)
    row_of = {query_id: row for row, query_id in enumerate(sorted(ids, key=str.encode))}

    with beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"])) as pipeline:
        tables = [
            (n, to_ipc(pa.table({"query_id": pa.array(part, pa.string())})))
            for n, part in parts.items()
        ]
        numbered = pipeline | beam.Create(tables) | NumberQueries(num_ranges)
        rows = (
            numbered.rows
            | beam.GroupByKey()
            | beam.MapTuple(lambda number, pieces: (number, rows_of(pieces).tolist()))
        )

        expected = [
            (number, [row_of[query_id] for query_id in part])
            for number, part in parts.items()
            if part
        ]
        assert_that(rows, equal_to(expected), label="rows")
        assert_that(numbered.num_queries, equal_to([len(ids)]), label="number")


def test_a_partition_without_queries_has_no_rows():
    assert rows_of([]).tolist() == []


def test_no_range_holds_much_more_than_its_share():
    chance = random.Random(3)
    parts = [sorted(make_ids(chance, 4000), key=str.encode) for _ in range(8)]
    data = [to_ipc(pa.table({"query_id": part})) for part in parts]
    combine = query_rows._FindCuts(8)
    samples = [query_rows._sampled(part) for part in data]
    halves = [[], []]
    for number, sample in enumerate(samples):
        halves[number % 2] = combine.add_input(halves[number % 2], sample)

    cuts = combine.extract_output(combine.merge_accumulators(halves))

    sizes = np.zeros(8)
    for part in data:
        for place, (_, piece) in query_rows._cut((0, part), cuts):
            sizes[place] += len(from_ipc(piece))
    assert sizes.sum() == sum(map(len, parts))
    # Four standard deviations of the largest share.
    assert sizes.max() < 1.5 * sizes.mean()

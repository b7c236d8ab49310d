"""Sums by key do not show how the tables were cut, and hold no more than the keys."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from pipelines.io import sums, tables
from pipelines.io.sums import SumByKey
from pipelines.io.tables import to_ipc


def piece(counts):
    ids = pa.array([key[0] for key in counts], pa.string())
    labels = pa.array([key[1] for key in counts], pa.int8())
    return to_ipc(pa.table({"id": ids, "label": labels, "count": pa.array(counts.values())}))


def added_up(combine, bundles):
    accumulators = []
    for bundle in bundles:
        accumulator = combine.create_accumulator()
        for data in bundle:
            accumulator = combine.add_input(accumulator, data)
        accumulators.append(combine.compact(accumulator))
    return combine.extract_output(combine.merge_accumulators(accumulators))


@pytest.mark.parametrize("tables_a_time", [64, 2])
@pytest.mark.parametrize("max_text_bytes", [1 << 31, 10])
def test_counts_of_equal_keys_add_up(monkeypatch, tables_a_time, max_text_bytes):
    monkeypatch.setattr(sums, "TABLES_A_TIME", tables_a_time)
    # As if an array could hold no more text.
    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", max_text_bytes)
    chance = random.Random(1)
    parts = [
        {(f"i{chance.randrange(30)}", chance.randrange(2)): chance.randrange(9) for _ in range(20)}
        for _ in range(10)
    ]
    expected = sum(map(Counter, parts), Counter())

    whole = added_up(
        SumByKey(["count"]), [[piece(part) for part in parts[start::3]] for start in range(3)]
    )

    rows = [tuple(row.values()) for row in whole.to_pylist()]
    assert {row[:2]: row[2] for row in rows if row[2]} == dict(expected)
    assert len({row[:2] for row in rows}) == len(rows)


def test_without_sums_the_distinct_rows_stay():
    pieces = [to_ipc(pa.table({"id": ids})) for ids in (["a", "b"], ["b", "c"], ["a"])]

    distinct = added_up(SumByKey(), [pieces[:2], pieces[2:]])

    assert sorted(distinct.column("id").to_pylist()) == ["a", "b", "c"]


def test_what_is_held_does_not_grow_with_the_tables(monkeypatch):
    monkeypatch.setattr(sums, "TABLES_A_TIME", 4)
    combine = SumByKey(["count"])
    held = combine.create_accumulator()

    for _ in range(50):
        held = combine.add_input(held, piece({("a", 0): 1, ("b", 1): 2}))

        assert sum(map(len, held)) <= 2 * 4

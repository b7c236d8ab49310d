"""Leaks of each sort are planted, and the audit must see all of them."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.audit import audit_examples, sampled, train_digest
from pipelines.examples import Examples
from pipelines.job import Corpus
from pipelines.partitions import Partition
from pipelines.split import NEVER, Cutoffs
from pipelines.tables import hash_ids
from pipelines.validate import Catalogue
from tfrs_twotower.schema import parse_config

# Query 0 has events at 10 to 60, query 1 at 10 to 30; the third of query 0 is negative.
SECONDS = [10, 20, 30, 40, 50, 60, 10, 20, 30]
QUERIES = [0] * 6 + [1] * 3
ROWS = [0, 1, 2, 3, 4, 5, 6, 7, 8]
LABELS = [1, 1, 0, 1, 1, 1, 1, 1, 1]
SPLITS = [0, 0, 0, 0, 1, 2, 0, 0, 0]
CUTOFFS = Cutoffs(45, 55)


def make_examples(config="columns: {timestamp: t}", splits=SPLITS):
    ids = pa.array([f"i{n}" for n in range(9)])
    events = pa.table(
        {
            "query": pa.array(QUERIES, pa.int32()),
            "timestamp_s": pa.array(SECONDS, pa.int64()),
            "label": pa.array(LABELS, pa.int8()),
            "weight": pa.array([1.0] * 9, pa.float32()),
            "candidate_row": pa.array(ROWS, pa.int32()),
        }
    )
    queries = pa.table({"query_id": ["u0", "u1"]})
    corpus = Corpus(Catalogue(ids), hash_ids(ids), pa.table({}), np.arange(9))
    return Examples(
        parse_config(config, "c"),
        Partition(events, queries),
        np.array(splits, np.int8),
        np.array([0, 1]),
        corpus,
    )


def violations(examples, history_rows, cutoffs=CUTOFFS):
    audit = audit_examples(examples, history_rows, cutoffs, np.arange(9))
    assert audit.checked["history"] == 9
    return {check: count for check, count in audit.violations.items() if count}


def test_sound_examples_pass():
    examples = make_examples()

    assert violations(examples, examples.history_rows(3)) == {}


@pytest.mark.parametrize(
    ("event", "history"),
    [
        pytest.param(1, [0, 1, -1], id="the-target-itself"),
        pytest.param(0, [3, -1, -1], id="a-later-event"),
        pytest.param(6, [0, -1, -1], id="another-query"),
        pytest.param(3, [0, 1, 2], id="a-negative"),
        pytest.param(3, [1, 0, -1], id="wrong-order"),
        pytest.param(5, [0, 1, 3], id="not-the-last-ones"),
        pytest.param(8, [6, -1, -1], id="one-missing"),
    ],
)
def test_a_wrong_history_is_seen(event, history):
    examples = make_examples()
    rows = examples.history_rows(3)
    rows[event] = history

    assert violations(examples, rows) == {"history": 1}


def test_examples_on_the_wrong_side_of_a_cutoff_are_seen():
    examples = make_examples(splits=[0, 0, 0, 1, 0, 2, 2, 0, 0])

    assert violations(examples, examples.history_rows(3)) == {"split": 3}


@pytest.mark.parametrize("by", ["leave_last_out", "temporal_user"])
def test_train_after_test_is_seen_where_each_query_is_split_by_itself(by):
    config = f"columns: {{timestamp: t}}\nsplit: {{by: {by}}}"
    examples = make_examples(config, splits=[0, 0, 0, 0, 2, 0, 0, 1, 2])

    # The train event at 60 comes behind the test event at 50.
    found = violations(examples, examples.history_rows(3), Cutoffs(NEVER, NEVER))
    assert found == {"split": 1}


@pytest.mark.parametrize(
    ("event", "history"),
    [
        pytest.param(1, [0, 1], id="own-candidate-of-train"),
        pytest.param(0, [1, 4], id="a-candidate-of-validation"),
        pytest.param(7, [0, -1], id="another-query"),
        pytest.param(0, [1, 1], id="twice"),
    ],
)
def test_a_leak_without_times_is_seen(event, history):
    config = "columns: {split: part}\nsplit: {by: column}"
    examples = make_examples(config)
    rows = examples.history_rows(2)
    assert violations(examples, rows) == {}
    rows[event] = history

    assert violations(examples, rows) == {"history": 1}


def test_counts_of_anything_but_train_change_the_digest():
    hashes = hash_ids(pa.array(["a", "b", "c"]))
    train, with_test = np.array([5, 0, 2]), np.array([5, 1, 2])

    assert train_digest(hashes, train) != train_digest(hashes, with_test)
    halves = [train_digest(hashes, np.array(part)) for part in ([3, 0, 2], [2, 0, 0])]
    assert sum(halves) % 2**62 == train_digest(hashes, train)


def test_all_examples_of_small_data_are_looked_at_and_few_of_large():
    examples = make_examples()

    assert len(sampled(examples, 2)) == 9
    assert len(sampled(examples, 10**12)) == 0

"""Leaks of each sort are planted, and the audit must see all of them."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io.tables import hash_ids
from pipelines.prepare.aggregates import Events, Log
from pipelines.prepare.audit import (
    audit_aggregates,
    audit_corpus,
    audit_examples,
    sampled,
    spread,
    train_digest,
)
from pipelines.prepare.catalogue import Catalogue, catalogue_table
from pipelines.prepare.examples import Examples
from pipelines.prepare.job import Corpus
from pipelines.prepare.partitions import Partition
from pipelines.prepare.split import NEVER, Cutoffs
from tfrs_twotower.schema import parse_config
from tfrs_twotower.schema.features import Aggregate

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
    corpus = Corpus(Catalogue(catalogue_table(ids)), pa.table({}), np.arange(9))
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


def test_an_example_from_the_gap_is_seen_and_so_is_one_that_is_missing_from_a_part():
    config = "columns: {timestamp: t}\nsplit: {gap_s: 5}"
    # 40 is in the gap ahead of 45, and 50 in the one ahead of 55.
    sound = make_examples(config, splits=[0, 0, 0, 3, 3, 2, 0, 0, 0])
    leaking = make_examples(config, splits=[0, 0, 3, 0, 1, 2, 0, 0, 0])

    assert violations(sound, sound.history_rows(3)) == {}
    assert violations(leaking, leaking.history_rows(3)) == {"split": 3}


def test_a_query_with_a_hundred_thousand_events_is_looked_at_in_linear_time():
    num_events = 100_000
    ids = pa.array([f"i{n}" for n in range(9)])
    events = pa.table(
        {
            "query": pa.array(np.zeros(num_events, np.int32)),
            "timestamp_s": pa.array(np.arange(num_events)),
            "label": pa.array(np.ones(num_events, np.int8)),
            "candidate_row": pa.array(np.arange(num_events) % 9, pa.int32()),
        }
    )
    examples = Examples(
        parse_config("columns: {timestamp: t}\nsplit: {by: temporal_user}", "c"),
        Partition(events, pa.table({"query_id": ["u0"]})),
        np.zeros(num_events, np.int8),
        np.array([0]),
        Corpus(Catalogue(catalogue_table(ids)), pa.table({}), np.arange(9)),
    )
    rows = examples.history_rows(3)
    rows[-1] = [0, 1, 2]  # The last event is of candidate 0: 6, 7, 8 lie before it.

    audit = audit_examples(examples, rows, Cutoffs(NEVER, NEVER), np.arange(num_events))

    assert audit.checked["history"] == num_events
    assert +audit.violations == {"history": 1}


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


DAY = 86_400
AGGREGATES = {
    f"{what}_{days}": Aggregate(what=what, days=days)
    for what in ("count", "recency", "mean")
    for days in (None, 2)
}
# Two entities with an event a day, each fourth of them negative; values are 0.5, 1.5, ...
EVENTS = Events(
    np.repeat([0, 1], 12),
    np.tile(np.arange(12) * DAY + 500, 2),
    np.tile([1, 1, 1, 0], 6),
    np.ones(24, int),
    np.arange(24) + 0.5,
)
IS_TRAIN = EVENTS.timestamps < 8 * DAY
LAST_TRAIN_S = 7 * DAY + 500


def found_with(events=EVENTS, entities=EVENTS.entities, moments=EVENTS.timestamps):
    """What is found of moments in some events."""
    return pa.table(Log(events).columns(AGGREGATES, entities, moments))


def violated(audit):
    assert audit.checked["aggregate"] > 0
    return audit.violations["aggregate"]


def test_sound_aggregates_pass():
    audit = audit_aggregates(AGGREGATES, EVENTS, np.arange(24), found_with())

    assert (audit.checked["aggregate"], violated(audit)) == (24 * 6, 0)


def planted(name, wrong):
    """Sound aggregates but one."""
    sound = found_with()
    place = sound.column_names.index(f"feature:{name}")
    return sound.set_column(place, f"feature:{name}", wrong)


@pytest.mark.parametrize(
    ("leaking", "seen_in"),
    [
        pytest.param(found_with(moments=EVENTS.timestamps + 1), AGGREGATES, id="the-event-itself"),
        pytest.param(found_with(moments=EVENTS.timestamps + 2 * DAY), AGGREGATES, id="the-future"),
        pytest.param(found_with(moments=EVENTS.timestamps - DAY), AGGREGATES, id="too-old"),
        # Both entities have their positives at the same times.
        pytest.param(
            found_with(entities=1 - EVENTS.entities), ["mean_None", "mean_2"], id="another-entity"
        ),
        pytest.param(
            found_with(EVENTS._replace(positives=np.ones(24, int), sums=-EVENTS.sums)),
            AGGREGATES,
            id="other-labels-and-values",
        ),
    ],
)
def test_a_wrong_aggregate_is_seen(leaking, seen_in):
    seen = []
    for name in AGGREGATES:
        found = planted(name, leaking.column(f"feature:{name}"))
        if violated(audit_aggregates(AGGREGATES, EVENTS, np.arange(24), found)):
            seen.append(name)

    assert seen == list(seen_in)


@pytest.mark.parametrize("places", [[5], [2, 20]])
def test_every_single_wrong_value_is_counted(places):
    counts = found_with().column("feature:count_2").to_pylist()
    for place in places:
        counts[place] += 1
    found = planted("count_2", pa.array(counts, pa.float32()))

    audit = audit_aggregates(AGGREGATES, EVENTS, np.arange(24), found)

    assert violated(audit) == len(places)


@pytest.mark.parametrize(
    ("events", "moment", "is_sound"),
    [
        pytest.param(EVENTS.where(IS_TRAIN), LAST_TRAIN_S + 1, True, id="sound"),
        pytest.param(EVENTS, LAST_TRAIN_S + DAY + 1, False, id="reads-validation"),
        pytest.param(EVENTS.where(IS_TRAIN), LAST_TRAIN_S, False, id="not-the-last-second"),
        pytest.param(EVENTS.where(IS_TRAIN), LAST_TRAIN_S + DAY, False, id="of-another-moment"),
    ],
)
def test_a_corpus_of_anything_but_the_end_of_train_is_seen(events, moment, is_sound):
    rows = np.array([0, 1])
    found = found_with(events, rows, np.full(2, moment))

    audit = audit_corpus(AGGREGATES, EVENTS, IS_TRAIN, LAST_TRAIN_S, rows, found)

    assert (violated(audit) == 0) == is_sound


def test_the_events_looked_at_are_spread_over_those_of_each_chosen_entity():
    events = Events(
        np.repeat([2, 5, 9], [100, 3, 50]),
        np.arange(153)[::-1].copy(),
        np.ones(153, int),
        np.zeros(153, int),
        np.zeros(153),
    )

    chosen = spread(events, np.array([2, 5]))

    of_first = np.sort(chosen[events.entities[chosen] == 2])
    assert len(of_first) == 16
    assert (of_first[0], of_first[-1]) == (0, 99)
    assert np.diff(of_first).max() <= 7
    assert np.sort(chosen[events.entities[chosen] == 5]).tolist() == [100, 101, 102]
    assert (events.entities[chosen] != 9).all()
    assert len(spread(events, np.array([], int))) == 0

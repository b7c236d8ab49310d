"""The aggregates that the whole job writes, against the definition over the whole log."""

import random

import numpy as np
import pytest

from pipelines.prepare import aggregate_transforms
from pipelines.prepare import pipeline as job
from pipelines.prepare.aggregates import Log
from tests.pipelines.conftest import World
from tests.pipelines.reference import (
    Event,
    aggregate,
    as_float32,
    in_order,
    read_records,
    read_rows,
    read_statistics,
    split_by_time,
    split_leave_last_out,
)
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.schema import parse_config

DAY = 86_400
START = 1_600_000_000
CONFIG = """
columns: {timestamp: t, value: stars}
labels: {positive_from: 3}
features:
  query: {user_id: {kind: id}}
  context:
    seen: {kind: number, aggregate: {what: count, days: 7}}
    idle: {kind: number, aggregate: {what: recency}}
    mood: {kind: number, aggregate: {what: mean, days: 30}}
  candidate:
    item_id: {kind: id}
    plays: {kind: number, aggregate: {what: count, days: 1}}
    rest: {kind: number, aggregate: {what: recency, days: 7}, missing: {fill: 99.0}}
    rated: {kind: number, aggregate: {what: mean}}
"""
OF_QUERY = {"seen": ("count", 7), "idle": ("recency", None), "mood": ("mean", 30)}
OF_CANDIDATE = {"plays": ("count", 1), "rest": ("recency", 7), "rated": ("mean", None)}
NUM_CANDIDATES = 30  # Of the file; events have the first 25.


def write_world(world):
    chance = random.Random(8)
    world.events, lines = [], []
    for _ in range(600):
        stars = chance.choice(["", "1", "2", "3", "4", "4.5", "5"])
        event = Event(
            f"u{chance.randrange(20)}",
            f"i{min(chance.randrange(25), chance.randrange(25))}",
            START + chance.choice([3600, 1]) * chance.randrange(24 * 40),
            label=0 if stars in ("1", "2") else 1,
            value=float(stars or "nan"),
        )
        world.events.append(event)
        lines.append(f"{event.query},{event.candidate},{event.second},{stars}")
    world.write("interactions.csv", "\n".join(["user_id,item_id,t,stars", *lines]))
    world.write_json_lines("candidates.jsonl", [{"item_id": f"i{n}"} for n in range(30)])
    return world


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    world = write_world(World(tmp_path_factory.mktemp("world")))
    world.manifest = world.prepare(CONFIG)
    split_by_time(world.events)
    return world


def before(events, moment, wanted):
    """Aggregates of some events before a moment, as records hold them."""
    own = [(event.second, event.label, event.value) for event in events]
    found = {name: aggregate(own, moment, *asked) for name, asked in wanted.items()}
    found = {n: "missing" if v is None else round(as_float32(v), 4) for n, v in found.items()}
    if found.get("rest") == "missing":
        found["rest"] = 99.0
    return found


def described(events, event):
    of_query = [e for e in events if e.query == event.query]
    of_candidate = [e for e in events if e.candidate == event.candidate]
    return {
        "candidate": event.candidate,
        "second": event.second,
        "label": event.label,
        **before(of_query, event.second, OF_QUERY),
        **before(of_candidate, event.second, OF_CANDIDATE),
    }


def values_of(record, names, place=0):
    values = {name: record[name][place] for name in names}
    return {n: "missing" if v is None or v != v else round(v, 4) for n, v in values.items()}


def recorded(folder, record, place=0):
    ids = {row["candidate_row"]: row["candidate_id"] for row in candidates_of(folder)}
    return {
        "candidate": ids[record["candidate_row"][place]],
        "second": record["timestamp_s"][place],
        "label": record["label"][place],
        **values_of(record, [*OF_QUERY, *OF_CANDIDATE], place),
    }


def candidates_of(folder):
    return read_rows(folder, "candidate_attributes")


@pytest.mark.parametrize(
    ("by", "split"),
    [
        ("time", split_by_time),
        pytest.param("leave_last_out", split_leave_last_out, marks=pytest.mark.slow),
    ],
)
def test_every_example_holds_what_the_log_says_of_its_moment(world, by, split):
    write_world(world)
    manifest = world.prepare(CONFIG + f"split: {{by: {by}}}")

    split(world.events)
    for name in ("train", "validation", "test"):
        expected = [described(world.events, e) for e in world.events if e.split == name]
        records = read_records(world.output, f"examples/{name}")
        actual = [recorded(world.output, record) for record in records]
        assert in_order(actual) == in_order(expected), name
        assert expected
    assert manifest["audit"]["checked"]["aggregate"] > 1000
    assert manifest["audit"]["violations"]["aggregate"] == 0


def test_a_position_of_a_sequence_holds_what_its_example_holds(prepared):
    records = read_records(prepared.output, "sequences/train")

    actual = [
        recorded(prepared.output, record, place)
        for record in records
        for place in range(len(record["label"]))
    ]

    positives = [e for e in prepared.events if e.split == "train" and e.label]
    assert in_order(actual) == in_order([described(prepared.events, e) for e in positives])


def expected_corpus(events):
    train = [event for event in events if event.split == "train"]
    end = max(event.second for event in train) + 1
    return {
        f"i{n}": before([e for e in train if e.candidate == f"i{n}"], end, OF_CANDIDATE)
        for n in range(NUM_CANDIDATES)
    }


def test_the_corpus_holds_what_train_says_at_its_end(prepared):
    records = read_records(prepared.output, "candidates")

    actual = {record["candidate_id"][0].decode(): record for record in records}

    expected = expected_corpus(prepared.events)
    assert {n: values_of(record, OF_CANDIDATE) for n, record in actual.items()} == expected
    assert any(values["plays"] for values in expected.values())


def test_people_and_servers_read_a_missing_aggregate_as_null(prepared):
    expected = expected_corpus(prepared.events)
    expected["i29"]["rest"] = "missing"  # The attributes are raw: nothing is filled in.

    [never_seen] = [row for row in candidates_of(prepared.output) if row["candidate_id"] == "i29"]

    assert (never_seen["plays"], never_seen["rest"], never_seen["rated"]) == (0, None, None)


def test_statistics_of_an_aggregate_count_train_events(prepared):
    train = [event for event in prepared.events if event.split == "train"]
    numbers = read_statistics(prepared.output)["numbers"]

    for name in ("seen", "plays", "rated", "mood"):
        values = [described(prepared.events, event)[name] for event in train]
        values = [value for value in values if value != "missing"]
        assert numbers[name]["num_values"] == len(values)
        assert numbers[name]["mean"] == pytest.approx(sum(values) / len(values), abs=1e-4)


def test_the_trainer_reads_them_with_the_examples_and_with_the_corpus(prepared):
    data = PreparedData(prepared.output, parse_config(CONFIG, "c"))
    names = {*OF_QUERY, *OF_CANDIDATE}

    [positions] = data.sequences().batch(100)

    assert names <= data.examples("train").keys()
    assert names <= positions.keys()
    assert set(OF_CANDIDATE) <= data.corpus().features.keys()


@pytest.mark.slow
def test_without_a_candidates_file_the_corpus_has_aggregates_too(world):
    rows = [("u", "a", 10), ("v", "a", 20), ("u", "b", 30), ("w", "b", 40), ("w", "c", 99_999_999)]
    lines = "".join(f"{','.join(map(str, row))}\n" for row in rows)
    world.write("interactions.csv", "user_id,item_id,t\n" + lines)

    world.prepare(
        "columns: {timestamp: t}\n"
        "features: {query: {user_id: {kind: id}}, candidate: {item_id: {kind: id},"
        " plays: {kind: number, aggregate: {what: count}}}}"
    )

    # Rank 4 of 5 tests: c, which is in no train event, is not in the corpus.
    counts = {row["candidate_id"]: row["plays"] for row in candidates_of(world.output)}
    assert counts == {"a": 2, "b": 2}


@pytest.mark.slow
def test_events_that_filters_leave_out_do_not_count(world):
    lines = "".join(f"u,a,{second}\n" for second in range(10)) + "v,a,20\nv,b,21\n"
    world.write("interactions.csv", "user_id,item_id,t\n" + lines)
    world.write("candidates.csv", "item_id\na\nb\n")

    world.prepare(
        "columns: {timestamp: t}\n"
        "split: {by: random, validation: 0.0, test: 0.0}\n"
        "filters: {duplicates: first, min_per_query: 2}\n"
        "features: {query: {user_id: {kind: id}}, candidate: {item_id: {kind: id},"
        " plays: {kind: number, aggregate: {what: count}}}}"
    )

    # Of u one event is left, which is too few; v has one of each.
    counts = {row["candidate_id"]: row["plays"] for row in candidates_of(world.output)}
    assert counts == {"a": 1, "b": 1}


def test_a_value_that_is_no_number_is_rejected_where_a_mean_reads_it(world):
    lines = [f"u{n},i,{n},3" for n in range(8)] + ["u8,i,8,good", "u9,i,9,1e99", "u9,i,9,"]
    world.write("interactions.csv", "\n".join(["user_id,item_id,t,stars", *lines]))

    manifest = world.prepare(
        "columns: {timestamp: t, value: stars}\n"
        "features: {context: {mood: {kind: number, aggregate: {what: mean}}},"
        " candidate: {item_id: {kind: id}}}",
        max_rejected_share=0.5,
    )

    assert world.rejected()["interactions.csv"] == [(9, "bad_value"), (10, "bad_value")]
    assert manifest["counts"]["read"] == 11


def test_of_a_candidate_a_worker_holds_its_seconds_and_not_its_events(world, monkeypatch):
    held = []

    class Watched(Log):
        def __init__(self, events):
            held.append(int(np.bincount(events.entities, minlength=1).max()))
            super().__init__(events)

    monkeypatch.setattr(aggregate_transforms, "Log", Watched)
    lines = "".join(f"u{n},hot,{10 + n % 4},{n % 3}\n" for n in range(300))
    world.write("interactions.csv", "user_id,item_id,t,stars\n" + lines)

    world.prepare(
        "columns: {timestamp: t, value: stars}\n"
        "split: {by: random, validation: 0.0, test: 0.0}\n"
        "features: {query: {user_id: {kind: id}}, candidate: {item_id: {kind: id},"
        " plays: {kind: number, aggregate: {what: count}},"
        " rated: {kind: number, aggregate: {what: mean}}}}"
    )

    [hot] = candidates_of(world.output)
    assert (hot["plays"], hot["rated"]) == (300, 1.0)
    assert max(held) == 4
    plays = [record["plays"][0] for record in read_records(world.output, "examples/train")]
    assert sorted(plays) == [0] * 75 + [75] * 75 + [150] * 75 + [225] * 75


class LooksAhead(Log):
    """Finds what lies a second later than it is asked for."""

    def before(self, aggregate, entities, timestamps):
        return super().before(aggregate, entities, timestamps + 1)


def test_a_job_that_looks_ahead_ends_without_a_manifest(world, monkeypatch):
    write_world(world)
    monkeypatch.setattr(aggregate_transforms, "Log", LooksAhead)

    with pytest.raises(RuntimeError, match="the audit found leaks.*'aggregate': [1-9]"):
        world.prepare(CONFIG)

    assert not (world.output / "manifest.json").exists()


@pytest.mark.parametrize("num_partitions", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_mean_has_the_same_bits_however_the_log_is_cut(
    prepared, world, monkeypatch, num_partitions
):
    monkeypatch.setattr(job, "MIN_PARTITIONS", num_partitions)

    write_world(world).prepare(CONFIG)

    for pattern in ("examples/*", "sequences/*", "candidates"):
        cut = in_order(read_records(world.output, pattern))
        assert repr(cut) == repr(in_order(read_records(prepared.output, pattern)))

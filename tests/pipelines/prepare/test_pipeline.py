"""The whole job on small worlds, against a definition that looks at one row at a time."""

import errno
import gzip
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems

from pipelines.prepare import main
from tests.pipelines.conftest import World
from tests.pipelines.reference import (
    Event,
    core,
    files_of,
    first_of_duplicates,
    history,
    in_order,
    read_bytes_of_records,
    read_records,
    read_rows,
    read_statistics,
    read_vocabulary,
    row_of,
    rows_of_ids,
    split_by_time,
    split_leave_last_out,
    split_temporal_user,
    vocabulary,
    without_contradicted,
)
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.schema import UsageError, UserError, parse_config

ROOT = Path(__file__).parents[3]
LENGTH = 3
NO_VIOLATION = {"history": 0, "split": 0, "aggregate": 0, "train_counts": 0}
CONFIG = """
columns: {query_id: user, candidate_id: item, timestamp: ts, event: type, value: thumbs,
          title: name, available_from: since}
labels:
  events: {view: {weight: 0.5}, buy: {weight: 2.0}}
  values: {-1: {label: 0}, 1: {}, 2: {weight: 3.0}}
features:
  query:
    user: {kind: id, min_count: 2}
    country: {kind: categorical}
    age: {kind: number}
    history: {kind: history, length: 3}
  context:
    device: {kind: categorical}
    moment: {kind: timestamp}
  candidate:
    item: {kind: id, min_count: 2}
    genres: {kind: multi_categorical, max_length: 3}
    price: {kind: number}
    vector: {kind: vector, dimension: 2}
export: {attributes: [genres]}
"""
START = 1_600_000_000  # A Sunday, 12:26:40 UTC.


def make_events(seed=0, num_events=300):
    """Events with ties in time, thumbs, and explicit negatives."""
    chance = random.Random(seed)
    events, lines = [], []
    for _ in range(num_events):
        query, candidate = f"u{chance.randrange(20)}", f"i{chance.randrange(15)}"
        second = START + 3600 * chance.randrange(60)
        if second == START + 3600 * 59:
            query = "u20"  # Has no event in train: cold.
        kind, thumbs = chance.choice(["view", "buy"]), chance.choice(["", "", "-1", "1", "2"])
        device = chance.choice(["tv", "phone", ""])
        weight = {"view": 0.5, "buy": 2.0}[kind] * {"2": 3.0}.get(thumbs, 1.0)
        label = 0 if thumbs == "-1" else 1
        events.append(Event(query, candidate, second, label, weight, 0, {"device": device}))
        lines.append(f"{query},{candidate},{second},{kind},{thumbs},{device}")
    return events, "user,item,ts,type,thumbs,device\n" + "\n".join(lines) + "\n"


CANDIDATES = [
    {"item": f"i{n}", "name": f"Item {n}", "since": n, "genres": genres, "price": price,
     "vector": vector}
    for n, (genres, price, vector) in enumerate(
        [(["a", "b"], 1.5, [0.5, 1.0]), (["b"], None, None), ([], 3.0, [1.0, 2.0])] * 6
    )
]  # fmt: skip
QUERIES = [
    {"user": f"u{n}", "country": country, "age": age}
    for n, (country, age) in enumerate([("at", 30), ("", None), ("be", 40)] * 7)
]


def write_world(world):
    events, text = make_events()
    world.write("interactions.csv", text)
    world.write_json_lines("candidates.jsonl", CANDIDATES)
    world.write_json_lines("queries.jsonl", QUERIES)
    world.events = events
    return world


@pytest.fixture
def small_world(world):
    return write_world(world)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The world, prepared once for the tests that only read; events know their split."""
    world = write_world(World(tmp_path_factory.mktemp("world")))
    world.manifest = world.prepare(CONFIG)
    split_by_time(world.events)
    return world


def expected_examples(events):
    """The records of all splits, by split."""
    query_rows = rows_of_ids([row["user"] for row in QUERIES])
    candidate_rows = rows_of_ids([row["item"] for row in CANDIDATES])
    train = [event for event in events if event.split == "train"]
    positives = [event for event in train if event.label]
    users = vocabulary([e.query for e in positives], min_count=2)
    items = vocabulary([e.candidate for e in positives], min_count=2)
    devices = vocabulary([e.context["device"] for e in positives])
    country_of = {row["user"]: row["country"] for row in QUERIES}
    age_of = {row["user"]: row["age"] for row in QUERIES}
    countries = vocabulary([country_of[query] for query in {e.query for e in train}])
    by_split = {"train": [], "validation": [], "test": [], "gap": []}
    for event in events:
        past = [row_of(item, items) for item in history(event, events, LENGTH)]
        age = age_of[event.query]
        hours = event.second // 3600
        by_split[event.split].append(
            {
                "query_row": [query_rows[event.query]],
                "candidate_row": [candidate_rows[event.candidate]],
                "timestamp_s": [event.second],
                "label": [event.label],
                "weight": [event.weight],
                "user": [row_of(event.query, users)],
                "country": [row_of(country_of[event.query], countries)],
                "age": ["nan" if age is None else float(age)],
                "history": past + [0] * (LENGTH - len(past)),
                "device": [row_of(event.context["device"], devices)],
                # 1 January 1970 was a Thursday, weekday 3.
                "moment": [1 + hours % 24, 1 + (hours // 24 + 3) % 7],
            }
        )
    return by_split


def actual_examples(folder, split):
    records = read_records(folder, f"examples/{split}")
    for record in records:
        if record["age"] != record["age"] or np.isnan(record["age"][0]):
            record["age"] = ["nan"]
    return records


@pytest.mark.parametrize("by", ["time", "leave_last_out", "temporal_user"])
def test_examples_are_those_of_the_definition_row_by_row(small_world, by):
    small_world.prepare(CONFIG + f"split: {{by: {by}}}\n")

    split = {
        "time": split_by_time,
        "leave_last_out": split_leave_last_out,
        "temporal_user": split_temporal_user,
    }[by]
    split(small_world.events)
    expected = expected_examples(small_world.events)
    for name in ("train", "validation", "test"):
        actual = actual_examples(small_world.output, name)
        assert in_order(actual) == in_order(expected.pop(name)), name
    assert expected == {"gap": []}


def test_events_in_the_gap_are_in_no_part_but_in_later_histories(small_world):
    manifest = small_world.prepare(CONFIG + "split: {gap_s: 7200}\n")

    split_by_time(small_world.events, gap_s=7200)
    expected = expected_examples(small_world.events)
    in_gap = expected.pop("gap")
    for name, records in expected.items():
        assert in_order(actual_examples(small_world.output, name)) == in_order(records), name
    assert len(in_gap) > 5
    assert manifest["counts"]["filtered"] == {"in_gap": len(in_gap)}
    assert manifest["audit"]["violations"] == NO_VIOLATION


def test_the_whole_log_as_corpus_has_what_occurs_in_the_gap_alone(world):
    seconds = {"a": 0, "b": 50, "c": 95, "d": 100}
    world.write(
        "interactions.csv",
        "user_id,item_id,t\n" + "".join(f"u,{item},{second}\n" for item, second in seconds.items()),
    )

    manifest = world.prepare(
        "columns: {timestamp: t}\nsplit: {validation: 0.0, test: 0.25, gap_s: 10, corpus: log}\n"
    )

    assert manifest["corpus_size"] == 4
    assert manifest["counts"]["filtered"] == {"in_gap": 1}
    assert world.prepare(
        "columns: {timestamp: t}\nsplit: {validation: 0.0, test: 0.25, gap_s: 10}\n",
        overwrite=True,
    )["counts"]["filtered"] == {"candidate_not_in_train": 2}


FILTERED_CONFIG = """
columns: {query_id: user, candidate_id: item, timestamp: ts, event: type}
labels: {events: {shown: {label: 0, unless_positive_within_s: 7200}, click: {}}}
filters: {duplicates: first, min_per_query: 3, min_per_candidate: 4, k_core: true}
features:
  query: {history: {kind: history, length: 3}}
  candidate: {item: {kind: id}}
"""


def test_filters_keep_what_the_definition_keeps_and_every_rule_is_accounted_for(world):
    chance = random.Random(4)
    events = []
    for _ in range(250):
        kind, second = chance.choice(["shown", "click"]), START + 3600 * chance.randrange(40)
        query, candidate = f"u{chance.randrange(30)}", f"i{chance.randrange(25)}"
        label = int(kind == "click")
        events.append(Event(query, candidate, second, label, context={"type": kind}))
    rows = "".join(f"{e.query},{e.candidate},{e.second},{e.context['type']}\n" for e in events)
    world.write("interactions.csv", "user,item,ts,type\n" + rows)

    manifest = world.prepare(FILTERED_CONFIG)

    merged = first_of_duplicates(without_contradicted(events, "shown", 7200))
    pairs = core([(e.query, e.candidate) for e in merged if e.label], 3, 4, repeat=True)
    queries, candidates = ({pair[side] for pair in pairs} for side in (0, 1))
    left = [e for e in merged if e.query in queries and e.candidate in candidates]
    split_by_time(left)
    in_train = {e.candidate for e in left if e.split == "train"}
    kept = [e for e in left if e.candidate in in_train]
    rows_of = rows_of_ids(in_train)
    query_rows = rows_of_ids([event.query for event in events])
    items = vocabulary([e.candidate for e in left if e.split == "train" and e.label])
    for split in ("train", "validation", "test"):
        expected = []
        for event in (event for event in kept if event.split == split):
            past = [row_of(item, items) for item in history(event, kept, LENGTH)]
            keys = [query_rows[event.query], rows_of[event.candidate], event.second, event.label]
            expected.append((*keys, *past + [0] * (LENGTH - len(past))))
        names = ("query_row", "candidate_row", "timestamp_s", "label", "history")
        actual = [
            tuple(value for name in names for value in record[name])
            for record in read_records(world.output, f"examples/{split}")
        ]
        assert sorted(actual) == sorted(expected)
        assert expected
    filtered = dict(manifest["counts"]["filtered"])
    num_contradicted = len(events) - len(without_contradicted(events, "shown", 7200))
    assert filtered.pop("negative_beside_positive") == num_contradicted
    assert filtered.pop("duplicate") == len(events) - num_contradicted - len(merged)
    assert filtered.pop("rare_candidate") == _rare(merged, candidates)
    assert filtered.pop("candidate_not_in_train", 0) == len(left) - len(kept)
    assert filtered == {"rare_query": len(merged) - len(left) - _rare(merged, candidates)}
    assert manifest["audit"]["violations"] == NO_VIOLATION


def _rare(events, candidates):
    return sum(event.candidate not in candidates for event in events)


def test_a_candidate_of_the_file_stays_in_the_corpus_when_its_events_are_filtered(world):
    rows = "".join(f"u{n},a,{n}\n" for n in range(9)) + "u0,rare,3\n"
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)
    world.write("candidates.csv", "item_id\na\nrare\n")

    manifest = world.prepare("columns: {timestamp: t}\nfilters: {min_per_candidate: 2}")

    assert manifest["counts"]["filtered"] == {"rare_candidate": 1}
    assert (manifest["corpus_size"], manifest["num_queries"]) == (2, 9)


def test_filters_that_leave_nothing_are_told(world):
    world.write("interactions.csv", "user_id,item_id,t\nu,a,1\nv,b,2\n")

    with pytest.raises(UserError, match="no positive event is in the train part.*`filters`"):
        world.prepare("columns: {timestamp: t}\nfilters: {min_per_query: 2}")


def test_a_sequence_holds_the_train_positives_of_a_query_in_their_order(prepared):
    by_query = {}
    ordered = sorted(prepared.events, key=lambda event: event.key)
    for example in expected_examples(ordered)["train"]:
        if example["label"] == [1]:
            by_query.setdefault(example["query_row"][0], []).append(example)
    of_position = ("candidate_row", "timestamp_s", "label", "weight", "device", "moment")

    actual = {
        record["query_row"][0]: record
        for record in read_records(prepared.output, "sequences/train")
    }

    assert actual.keys() == by_query.keys()
    for query_row, own in by_query.items():
        record = actual[query_row]
        assert record.keys() == {*of_position, "query_row", "user", "country", "age"}
        assert (record["user"], record["country"]) == (own[0]["user"], own[0]["country"])
        for name in of_position:
            assert record[name] == [value for example in own for value in example[name]], name


def test_the_sequences_are_read_as_ragged_arrays(prepared):
    data = PreparedData(prepared.output, parse_config(CONFIG, "c"))
    positives = [e for e in prepared.events if e.split == "train" and e.label]

    [batch] = data.sequences().batch(100)

    assert len(batch["query_row"]) == len({event.query for event in positives})
    assert batch["candidate_row"].values.shape == [len(positives)]
    assert batch["moment"].values.shape == [len(positives), 2]


def test_candidates_are_encoded_once_each_in_the_order_of_their_ids(prepared):
    positives = [e for e in prepared.events if e.split == "train" and e.label]
    items = vocabulary([e.candidate for e in positives], min_count=2)
    genres = vocabulary([genre for row in CANDIDATES for genre in row["genres"]])
    candidate_rows = rows_of_ids([row["item"] for row in CANDIDATES])
    expected = {}
    for row in CANDIDATES:
        rows = [row_of(genre, genres) for genre in row["genres"]]
        expected[candidate_rows[row["item"]]] = (
            row["item"].encode(),
            row_of(row["item"], items),
            rows + [0] * (3 - len(rows)),
            "nan" if row["price"] is None else row["price"],
            ["nan", "nan"] if row["vector"] is None else row["vector"],
        )
    actual = {}
    for record in read_records(prepared.output, "candidates"):
        floats = [["nan" if np.isnan(v) else v for v in record[n]] for n in ("price", "vector")]
        actual[record["candidate_row"][0]] = (
            record["candidate_id"][0],
            record["item"][0],
            record["genres"],
            floats[0][0],
            floats[1],
        )
    assert actual == expected


def test_queries_keep_their_profile_and_their_histories(prepared):
    actual = {row["query_id"]: row for row in read_rows(prepared.output, "queries")}
    assert actual.keys() == {row["user"] for row in QUERIES}
    for query in QUERIES:
        own = [e for e in prepared.events if e.query == query["user"] and e.label]
        own.sort(key=lambda e: e.key)
        in_train = [e.candidate for e in own if e.split == "train"]
        row = actual[query["user"]]
        assert row["history_train_end"] == in_train[-LENGTH:]
        assert row["history_now"] == [e.candidate for e in own][-LENGTH:]
        assert (row["country"], row["age"]) == (query["country"], query["age"])


def test_known_positives_are_the_distinct_train_positives(prepared):
    candidate_rows = rows_of_ids([row["item"] for row in CANDIDATES])
    expected = {}
    for event in prepared.events:
        if event.split == "train" and event.label:
            expected.setdefault(event.query, set()).add(candidate_rows[event.candidate])
    actual = read_rows(prepared.output, "known_positives")
    assert {row["query_id"]: row["candidate_rows"] for row in actual} == {
        query: sorted(rows) for query, rows in expected.items()
    }


def test_statistics_count_train_alone_and_every_candidate(prepared):
    train = [e for e in prepared.events if e.split == "train"]
    positives = [e.candidate for e in train if e.label]
    statistics = read_statistics(prepared.output)
    assert statistics["total"] == len(positives)
    assert statistics["candidate_train_counts"] == {
        row["item"]: positives.count(row["item"]) for row in CANDIDATES
    }
    # Twelve candidates have a price: six of 1.5, six of 3.
    price = statistics["numbers"]["price"]
    assert (price["num_values"], price["mean"], price["variance"]) == (12, 2.25, 0.5625)
    ages = [row["age"] for row in QUERIES if row["age"] and row["user"] in {e.query for e in train}]
    assert statistics["numbers"]["age"]["num_values"] == len(ages)
    assert statistics["numbers"]["age"]["mean"] == pytest.approx(np.mean(ages))


def test_attributes_show_what_the_candidates_file_says(prepared):
    rows = read_rows(prepared.output, "candidate_attributes")
    first = next(row for row in rows if row["candidate_id"] == "i0")
    assert first == {
        "candidate_id": "i0",
        "candidate_row": 0,
        "title": "Item 0",
        "available_from": 0,
        "genres": ["a", "b"],
        "price": 1.5,
        "vector": [0.5, 1.0],
    }


def test_the_trainer_reads_what_the_job_wrote(prepared):
    data = PreparedData(prepared.output, parse_config(CONFIG, "c"))
    num_train = sum(e.split == "train" for e in prepared.events)
    assert len(data.examples("train")["label"]) == num_train
    assert data.corpus().candidate_ids.tolist() == sorted(row["item"] for row in CANDIDATES)
    assert (
        data.corpus().train_counts.sum()
        == prepared.manifest["counts"]["examples"]["train"]["positives"]
    )
    queries, candidates = data.known_positives()
    assert len(queries) == len(candidates) > 0


def test_the_manifest_accounts_for_every_record(small_world):
    lines = ["u1,i1,x,view,,", "u1,i1", ",i1,5,view,,", "u1,i99,5,view,,", "u1,i1,5,sell,,"]
    text = (small_world.dataset / "interactions.csv").read_text() + "\n".join(lines)
    small_world.write("interactions.csv", text)

    manifest = small_world.prepare(CONFIG, max_rejected_share=0.1)

    assert manifest["counts"]["read"] == 305
    assert manifest["counts"]["rejected"] == {
        "bad_timestamp": 1,
        "malformed_line": 1,
        "missing_id": 1,
        "unknown_candidate": 1,
        "unknown_event": 1,
    }
    examples = sum(sum(counts.values()) for counts in manifest["counts"]["examples"].values())
    assert examples == 300
    assert manifest["counts"]["files"]["interactions.csv"] == {"read": 305, "rejected": 5}
    assert small_world.rejected()["interactions.csv"] == [
        (301, "bad_timestamp"),
        (302, "malformed_line"),
        (303, "missing_id"),
        (304, "unknown_candidate"),
        (305, "unknown_event"),
    ]


def test_without_a_candidates_file_the_corpus_is_what_train_holds(world):
    lines = [f"u,{item},{second}" for second, item in enumerate("cabcabcab")] + ["u,d,9"]
    world.write("interactions.csv", "user_id,item_id,t\n" + "\n".join(lines) + "\n")

    manifest = world.prepare("columns: {timestamp: t}")

    # Ranks 8 and 9 of ten begin validation and test: d occurs in test alone.
    assert manifest["corpus_size"] == 3
    assert manifest["counts"]["filtered"] == {"candidate_not_in_train": 1}
    candidates = read_records(world.output, "candidates")
    assert {r["candidate_id"][0]: r["candidate_row"][0] for r in candidates} == {
        b"a": 0,
        b"b": 1,
        b"c": 2,
    }
    assert read_statistics(world.output)["total"] == 8


def test_without_a_candidates_file_the_corpus_is_the_whole_log_where_that_is_asked(world):
    lines = [f"u,{item},{second}" for second, item in enumerate("cabcabcab")] + ["u,d,9"]
    world.write("interactions.csv", "user_id,item_id,t\n" + "\n".join(lines) + "\n")

    manifest = world.prepare("columns: {timestamp: t}\nsplit: {corpus: log}")

    assert manifest["corpus_size"] == 4
    assert manifest["counts"]["filtered"] == {}
    assert manifest["warm_cold"]["test"]["cold_candidates"] == 1
    candidates = read_records(world.output, "candidates")
    assert sorted(r["candidate_id"][0] for r in candidates) == [b"a", b"b", b"c", b"d"]
    assert read_statistics(world.output)["candidate_train_counts"]["d"] == 0


def test_data_without_times_get_histories_that_leave_the_target_out(world):
    rows = [f"u{u},i{i},{'train' if i < 4 else 'test'}" for u in range(3) for i in range(5)]
    rows += ["u9,i4,train"]
    world.write("interactions.csv", "user_id,item_id,part\n" + "\n".join(rows) + "\n")

    world.prepare(
        "columns: {split: part}\n"
        "split: {by: column}\n"
        "features:\n"
        "  query: {history: {kind: history, length: 3}}\n"
        "  candidate: {item: {kind: id}}\n"
    )

    assert files_of(world.output, "sequences/train") == []
    items = read_vocabulary(world.output, "item")
    for record in read_records(world.output, "examples/train"):
        past = {items[row - 2] for row in record["history"] if row}
        target = f"i{record['candidate_row'][0]}"
        others = set() if target == "i4" else {"i0", "i1", "i2", "i3"} - {target}
        assert past == others
    for record in read_records(world.output, "examples/test"):
        past = {items[row - 2] for row in record["history"]}
        assert len(past) == 3
        assert past < {"i0", "i1", "i2", "i3"}


def test_held_out_pairs_of_presplit_data_validate(world):
    rows = [f"u{n % 40},i{n // 40},train" for n in range(2000)] + ["u1,i1,test"]
    world.write("interactions.csv", "user_id,item_id,part\n" + "\n".join(rows) + "\n")

    manifest = world.prepare("columns: {split: part}\nsplit: {by: column, hold_out: 0.2}\n")

    examples = manifest["counts"]["examples"]
    # Binomial of 2,000 and 0.2: 400 with a standard deviation of 18.
    assert 310 <= examples["validation"]["positives"] <= 490
    assert examples["train"]["positives"] == 2000 - examples["validation"]["positives"]
    assert examples["test"]["positives"] == 1


def test_a_random_split_has_the_asked_shares(world):
    rows = [f"u{n % 40},i{n % 7},{n}" for n in range(2000)]
    world.write("interactions.csv", "user_id,item_id,t\n" + "\n".join(rows) + "\n")

    manifest = world.prepare(
        "columns: {timestamp: t}\nsplit: {by: random, validation: 0.2, test: 0.3}"
    )

    examples = manifest["counts"]["examples"]
    assert 310 <= examples["validation"]["positives"] <= 490
    assert 510 <= examples["test"]["positives"] <= 690


def test_dates_split_at_midnight_utc(world):
    # 1 January 2024 begins at 1,704,067,200.
    seconds = [1704067199, 1704067200, 1704153599, 1704153600]
    rows = "".join(f"u,i,{second}\n" for second in seconds)
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)

    manifest = world.prepare(
        "columns: {timestamp: t}\n"
        "split: {by: dates, validation_from: 2024-01-01, test_from: 2024-01-02}"
    )

    assert manifest["time_ranges"] == {
        "train": [1704067199, 1704067199],
        "validation": [1704067200, 1704153599],
        "test": [1704153600, 1704153600],
    }


def test_the_order_of_input_rows_and_files_does_not_matter(small_world, tmp_path):
    small_world.prepare(CONFIG)
    whole = read_bytes_of_records(small_world.output, "examples/*")
    header, *lines = (small_world.dataset / "interactions.csv").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (small_world.dataset / "interactions.csv").unlink()
    for number in range(3):
        part = "\n".join([header, *lines[number::3]])
        small_world.write(f"interactions-{number}.csv", part)

    small_world.prepare(CONFIG, overwrite=True)

    assert read_bytes_of_records(small_world.output, "examples/*") == whole


@pytest.mark.parametrize(
    ("files", "config", "message"),
    [
        pytest.param({}, "", "no interactions in .*expected interactions", id="no-file"),
        pytest.param(
            {"interactions.csv": "user_id,itemid\nu,i\n"},
            "",
            "no column `item_id`.*did you mean `itemid`",
            id="missing-column",
        ),
        pytest.param(
            {"interactions.csv": "1;2\n3;4\n"},
            "",
            "has no header, its first line is '1;2': .*`files.header.interactions`",
            id="no-header",
        ),
        pytest.param({"interactions.csv": ""}, "", "interactions are empty", id="no-byte"),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\n"}, "", "interactions are empty", id="no-row"
        ),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\n" + "u,i,1700000000000\n" * 5},
            "",
            "5 of the first 5 records.*timestamp_not_seconds.*`columns.time_format`",
            id="milliseconds",
        ),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\n" + "u,i,01/02/2024 10:00\n" * 5},
            "",
            "timestamp_not_seconds.*%d/%m/%Y",
            id="date-text",
        ),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\n" + "u,i\n" * 5},
            "",
            "5 of the first 5 records.*malformed_line",
            id="all-malformed",
        ),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\n" + "u,i,1\n" * 9 + "u,i,\n"},
            "",
            r"1 of 10 records of the interactions \(10.0%\).*`max_rejected_share`",
            id="too-many-rejected",
        ),
        pytest.param(
            {"interactions.csv.gz": b"\x1f\x8b\x08\x00broken"},
            "",
            "cannot read .*interactions.csv.gz",
            id="broken-gzip",
        ),
        pytest.param(
            {"interactions.parquet": b"PAR1 and then nothing"},
            "",
            "cannot read .*interactions.parquet",
            id="broken-parquet",
        ),
        pytest.param(
            {"interactions.csv": "user_id,item_id,t\nu,i,1\n"},
            "features: {query: {user_id: {kind: id}, age: {kind: number}},"
            " candidate: {item_id: {kind: id}}}",
            "no queries.*`features.query.age` needs its column `age`",
            id="no-queries-file",
        ),
    ],
)
def test_bad_data_end_in_a_sentence_and_leave_no_manifest(world, files, config, message):
    for name, text in files.items():
        world.write(name, text)
    timestamp = "columns: {timestamp: t}\n" if b"t" in _header(files) else "columns: {}\n"
    by = "" if b"t" in _header(files) else "split: {by: random}\n"

    with pytest.raises(UserError, match=f"(?s){message}"):
        world.prepare(timestamp + by + config)

    assert not (world.output / "manifest.json").exists()


def test_a_header_that_stands_twice_is_a_record_that_is_rejected_and_counted(world):
    header, rows = "user_id,item_id,t\n", "".join(f"u,i,{1_700_000_000 + s}\n" for s in range(20))
    world.write("interactions.csv", header + header + rows)

    manifest = world.prepare("columns: {timestamp: t}\n", max_rejected_share=0.1)

    assert manifest["counts"]["read"] == 21
    assert manifest["counts"]["rejected"] == {"bad_timestamp": 1}
    examples = sum(sum(counts.values()) for counts in manifest["counts"]["examples"].values())
    assert examples == 20


def test_nothing_but_rejects_ends_in_a_sentence_whatever_share_may_be_rejected(world):
    world.write("interactions.csv", "user_id,item_id,t\n" + "u,i,\n" * 5)

    with pytest.raises(UserError, match="every one of the 5 records .*`bad_timestamp`"):
        world.prepare("columns: {timestamp: t}\n", max_rejected_share=1.0)

    assert not (world.output / "manifest.json").exists()


@pytest.mark.parametrize(
    "file",
    [
        "/twotower-",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("/catalogue-", "-queries-")),
        "/train-00003-",
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("/statistics-", "/manifest-")),
    ],
)
def test_a_full_disk_is_told_and_leaves_no_manifest(small_world, monkeypatch, file):
    create = FileSystems.create

    def full(path, *arguments, **options):
        if file in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(path, *arguments, **options)

    monkeypatch.setattr(FileSystems, "create", staticmethod(full))

    with pytest.raises(UserError) as caught:
        small_world.prepare(CONFIG)

    assert str(caught.value) == f"the disk is full: make room for {small_world.output}"
    assert not (small_world.output / "manifest.json").exists()
    monkeypatch.undo()
    assert small_world.prepare(CONFIG)["counts"]["read"] == 300


@pytest.fixture
def _interruptible():
    """As a command that a person starts; processes in the background may ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("file", ["/twotower-", "/train-00003-", "/manifest-"])
@pytest.mark.usefixtures("_interruptible")
def test_a_job_interrupted_at_a_file_ends_with_a_line_and_can_be_run_again(
    world, monkeypatch, capsys, file
):
    """In a worker, Beam makes an error of its own of the interrupt, and logs it."""
    rows = "".join(f"u{n % 97},i{n % 11},{n}\n" for n in range(2000))
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)
    world.write("twotower.yaml", "columns: {timestamp: t}\n")
    given = ["--config", f"{world.dataset}/twotower.yaml", "--dataset", str(world.dataset)]
    command = [*given, "--output", str(world.output)]
    create = FileSystems.create

    def interrupting(path, *arguments, **options):
        if file in path:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return create(path, *arguments, **options)

    monkeypatch.setattr(FileSystems, "create", staticmethod(interrupting))

    assert main(command) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted"]
    assert [path for path in world.output.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert main(command) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_disk_that_becomes_full_ends_the_command_with_a_line(world, tmp_path):
    rows = "".join(f"u{n % 997},i{n % 101},{n}\n" for n in range(100_000))
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)
    world.write("twotower.yaml", "columns: {timestamp: t}\n")
    small = tmp_path / "small"
    small.mkdir()
    # A disk of its own, which goes with the shell.
    mount = f"mount -t tmpfs -o size=2m none {small}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    command = (
        f"{sys.executable} -m pipelines.prepare --config {world.dataset}/twotower.yaml"
        f" --dataset {world.dataset} --output {small}/prepared"
    )

    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mount} && {command}; echo code $?; ls {small}/prepared"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip

    assert "code 1\n" in done.stdout
    assert "manifest.json" not in done.stdout
    assert f"the disk is full: make room for {small}/prepared\n" in done.stderr
    assert "Traceback" not in done.stderr


def _header(files):
    data = next(iter(files.values()), "")
    data = data if isinstance(data, bytes) else data.encode()
    return data.split(b"\n")[0].split(b",")


def test_a_finished_folder_is_refused_without_overwrite(prepared):
    with pytest.raises(UsageError, match="is finished: pass `overwrite=True`"):
        prepared.prepare(CONFIG)


def test_the_command_line_says_what_is_wrong_and_exits_with_two_for_misuse(capsys):
    assert main(["--config", "x.yaml", "--output", "y"]) == 2

    assert "--dataset is missing" in capsys.readouterr().err


def test_a_query_without_profile_and_a_profile_without_events_have_a_place(world):
    world.write("interactions.csv", "user_id,item_id,t\nu1,a,1\nu1,b,2\n")
    world.write_json_lines("queries.jsonl", [{"user_id": "u2", "age": 7}])

    world.prepare(
        "columns: {timestamp: t}\nsplit: {by: random, validation: 0.0, test: 0.0}\n"
        "features: {query: {user_id: {kind: id}, age: {kind: number}},"
        " candidate: {item_id: {kind: id}}}"
    )

    rows = read_rows(world.output, "queries")
    assert {row["query_id"]: (row["age"], row["history_now"]) for row in rows} == {
        "u1": (None, ["a", "b"]),
        "u2": (7.0, []),
    }


def test_a_duplicate_candidate_or_query_is_rejected_for_the_first(world):
    world.write("interactions.csv", "user_id,item_id,t\n" + "u,a,1\n" * 50)
    world.write("candidates.csv", "item_id,name\na,first\nb,other\na,second\n")

    manifest = world.prepare(
        "columns: {timestamp: t, title: name}\nsplit: {by: random, validation: 0.0, test: 0.0}",
        max_rejected_share=0.5,
    )

    titles = {
        row["candidate_id"]: row["title"] for row in read_rows(world.output, "candidate_attributes")
    }
    assert titles == {"a": "first", "b": "other"}
    assert world.rejected()["candidates.csv"] == [(3, "duplicate_id")]
    assert manifest["counts"]["files"]["candidates.csv"] == {"read": 3, "rejected": 1}


def test_the_manifest_says_what_the_audit_looked_at(prepared):
    audit = prepared.manifest["audit"]

    checked = {"history": 300, "split": 300, "aggregate": 0, "train_counts": 18}
    assert audit["checked"] == checked
    assert audit["violations"] == NO_VIOLATION


def test_warm_queries_and_candidates_are_those_with_a_train_positive(prepared):
    train = [e for e in prepared.events if e.split == "train" and e.label]
    test = [e for e in prepared.events if e.split == "test"]
    warm_queries = {e.query for e in test} & {e.query for e in train}
    warm_candidates = {e.candidate for e in test} & {e.candidate for e in train}
    assert {e.query for e in test} - warm_queries == {"u20"}
    assert prepared.manifest["warm_cold"]["test"] == {
        "warm_queries": len(warm_queries),
        "cold_queries": len({e.query for e in test}) - len(warm_queries),
        "warm_candidates": len(warm_candidates),
        "cold_candidates": len({e.candidate for e in test}) - len(warm_candidates),
    }


def test_the_command_line_closes_with_a_table(world, capsys):
    rows = "".join(f"u{n % 5},i{n % 3},{n}\n" for n in range(100))
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)
    world.write("twotower.yaml", "columns: {timestamp: t}")

    code = main(
        ["--config", str(world.dataset / "twotower.yaml"), "--dataset", str(world.dataset),
         "--output", str(world.output)]
    )  # fmt: skip

    assert code == 0
    shown = capsys.readouterr().out
    assert "5 queries, 3 candidates in all" in shown
    assert "1970-01-01 00:01" in shown


@pytest.mark.slow
def test_a_million_real_events_take_less_than_a_minute_of_the_processor(world, public_data):
    ratings = gzip.decompress((public_data / "ml-1m" / "ratings.dat.gz").read_bytes())
    text = b"user_id,item_id,rating,t\n" + ratings.replace(b"::", b",")
    world.write("interactions.csv", text)

    start = time.process_time()
    manifest = world.prepare("columns: {timestamp: t}")

    assert time.process_time() - start < 60
    assert manifest["counts"]["read"] == 1_000_209
    assert manifest["audit"]["violations"] == NO_VIOLATION

"""Drift planted in a prepared folder, or in served queries, is found where it was planted."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfrs_twotower as tt
from tests.prepared_folder import Example, write_prepared_folder
from tests.request_logs import record, write_log
from tfrs_twotower.cli import main
from tfrs_twotower.evaluation.drift import Churn, Drift, drift
from tfrs_twotower.schema import Config, UsageError, UserError, parse_config

CONFIG_TEXT = """\
columns: {query_id: user, candidate_id: item, timestamp: ts}
features:
  query:
    user: {kind: id}
    plan: {kind: categorical}
    age: {kind: number}
    taste: {kind: vector, dimension: 2}
    recent: {kind: history, length: 2}
  context:
    moment: {kind: timestamp}
    mobile: {kind: boolean}
  candidate:
    item: {kind: id}
    genres: {kind: multi_categorical, max_length: 2}
    title: {kind: text, buckets: 16, max_length: 3}
    price: {kind: number}
"""
CONFIG = parse_config(CONFIG_TEXT, "drift")
NUM_USERS, EVENTS_EACH = 150, 6
ITEMS = [f"item-{number:02d}" for number in range(20)]
FRESH = "fresh"  # The candidate that no event of train has.
Encoded = dict[str, Any]
NUMBERS = {
    name: {
        "num_values": 100,
        "mean": 0.0,
        "variance": 1.0,
        "log_mean": 0.0,
        "log_variance": 1.0,
        "quantiles": np.linspace(-2, 2, 11).tolist(),
    }
    for name in ("age", "price")
}


@dataclasses.dataclass
class World:
    """What is drawn for each user and event; a drift replaces one of these."""

    items: list[str] = dataclasses.field(default_factory=lambda: list(ITEMS))
    query: Callable[[np.random.Generator, Encoded], None] = lambda draw, encoded: None
    context: Callable[[np.random.Generator, Encoded], None] = lambda draw, encoded: None
    label: float = 0.2  # Share of negatives.
    is_known: float = 0.7  # Share of the users of test that train knows.
    fresh: int = 1  # Of ten events of test, how many have a candidate that train does not.


def drawn(
    seed: int, world: World, users: list[str], num_known: int
) -> Iterator[tuple[list[Example], bool]]:
    """The events of each user, and whether train knows the user of the test event."""
    draw = np.random.default_rng(seed)
    for row, user in enumerate(users):
        profile: Encoded = {
            "user": 2 + row,
            "plan": int(draw.choice([2, 3], p=[0.7, 0.3])),
            "age": float(draw.normal()),
            "taste": draw.normal(size=2).tolist(),
        }
        world.query(draw, profile)
        examples = []
        for _ in range(EVENTS_EACH):
            item = int(draw.integers(len(world.items)))
            context: Encoded = {
                "recent": [2 + int(draw.integers(num_known)), 0],
                "moment": [1 + int(draw.integers(24)), 1 + int(draw.integers(7))],
                "mobile": float(draw.random() < 0.5),
            }
            world.context(draw, context)
            label = int(draw.random() >= world.label)
            examples.append(Example(user, world.items[item], {**profile, **context}, label=label))
        yield examples, draw.random() < world.is_known


def write(
    folder: Path,
    seed: int,
    world: World,
    prefix: str = "user",
    config: Config = CONFIG,
    vocabulary: list[str] | None = None,
) -> Path:
    examples: dict[str, list[Example]] = {"train": [], "test": []}
    users = [f"{prefix}-{number:03d}" for number in range(NUM_USERS)]
    items = world.items
    known = vocabulary or items
    for number, (of_user, is_known) in enumerate(drawn(seed, world, users, len(known))):
        examples["train"] += of_user
        last = of_user[-1]
        query_id = last.query_id if is_known else f"new-{last.query_id}"
        candidate_id = FRESH if number % 10 < world.fresh else last.candidate_id
        examples["test"].append(last._replace(query_id=query_id, candidate_id=candidate_id))
    return write_prepared_folder(
        folder,
        config,
        vocabularies={
            "user": users,
            "plan": ["free", "paid"],
            "item": known,
            "genres": ["drama", "crime"],
        },
        candidates={
            name: {
                "item": 2 + known.index(name) if name in known else 1,
                "genres": [2 + row % 2, 0],
                "title": [1 + row % 16, 0, 0],
                "price": (row % 5) / 5,
            }
            for row, name in enumerate([*items, FRESH])
        },
        examples=examples,
        numbers=NUMBERS,
    )


PLANS = ["", "gold", "free", "paid"]  # By row; the second is no token of the vocabulary.


def write_requests(folder: Path, seed: int, world: World, user: str = "user-{}") -> Path:
    """What the users of the same names would have asked a server with."""
    users = [f"{number:03d}" for number in range(NUM_USERS)]
    records = []
    for of_user, _ in drawn(seed, world, users, len(ITEMS)):
        for query_id, _, encoded, *_ in of_user:
            hour, weekday = (part - 1 for part in encoded["moment"])
            had = ["x" if row == 1 else ITEMS[row - 2] for row in encoded["recent"] if row]
            features = {
                "user": [user.format(query_id)],
                "plan": [PLANS[encoded["plan"]]],
                "age": np.array([encoded["age"]], np.float32),
                "taste": np.array([encoded["taste"]], np.float32),
                "recent": [["", *had, ""]],
                # 5 January 1970 was a Monday.
                "moment": np.array([((4 + weekday) * 24 + hour) * 3600], np.int64),
                "mobile": np.array([encoded["mobile"]], np.float32),
            }
            records.append(record(1, {**features, "k": [5], "exclude_ids": [["a"]]}, {}))
    write_log(folder, record(1, {"item": ["item-00"]}, {}), *records)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return write(tmp_path_factory.mktemp("drift") / "a", 1, World())


def key_is(name: str, value: Any, share: float = 0.5) -> Callable[..., None]:
    def change(draw: np.random.Generator, encoded: Encoded) -> None:
        if draw.random() < share:
            encoded[name] = value

    return change


def all_of(*changes: Callable[..., None]) -> Callable[..., None]:
    def change(draw: np.random.Generator, encoded: Encoded) -> None:
        for one in changes:
            one(draw, encoded)

    return change


@pytest.fixture(scope="module")
def drifted(tmp_path_factory):
    """Several drifts at once."""
    world = World(
        query=all_of(key_is("plan", 1), key_is("age", float("nan")), key_is("taste", [3.0, 3.0])),
        context=all_of(key_is("moment", [9, 1]), key_is("mobile", 1.0), key_is("recent", [2, 3])),
        label=0.5,
        is_known=0.2,
    )
    return write(tmp_path_factory.mktemp("drift") / "b", 5, world, prefix="other")


@pytest.fixture(scope="module")
def result(first, drifted):
    return drift(first, drifted)


def found(result: Drift) -> set[tuple[str, str]]:
    return {(one.name, one.what) for one in result.drifting()}


def test_between_two_samples_of_one_population_nothing_drifts(first, tmp_path):
    other = write(tmp_path / "b", 2, World(), prefix="other")

    result = drift(first, other)

    assert found(result) == set()
    assert ("plan", "values") in {(one.name, one.what) for one in result.differences}
    assert result.num_examples == (NUM_USERS * EVENTS_EACH,) * 2
    assert result.churn["user"] == Churn(kept=0, new=NUM_USERS, gone=NUM_USERS)
    assert result.churn["item"] == Churn(kept=20, new=0, gone=0)


def test_planted_drifts_are_found_and_nothing_else(result):
    values = {(name, "values") for name in ("plan", "taste", "moment", "mobile", "recent")}
    shares = {
        *(("plan", "unknown"), ("age", "missing"), ("recent", "length")),
        *(("label", "positive"), ("queries", "cold")),
    }

    assert found(result) == values | shares


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (World(query=key_is("plan", 3)), {("plan", "values")}),
        (World(query=key_is("plan", 0)), {("plan", "missing")}),
        (World(query=key_is("plan", 1)), {("plan", "unknown"), ("plan", "values")}),
        (World(query=key_is("age", 1.5)), {("age", "values")}),
        (World(query=key_is("age", float("nan"))), {("age", "missing")}),
        (World(query=key_is("taste", [3.0, 3.0])), {("taste", "values")}),
        (World(context=key_is("moment", [9, 1])), {("moment", "values")}),
        (World(context=key_is("mobile", 1.0)), {("mobile", "values")}),
        (World(context=key_is("recent", [2, 3])), {("recent", "values"), ("recent", "length")}),
        (World(label=0.5), {("label", "positive")}),
        (World(is_known=0.2), {("queries", "cold")}),
        (World(fresh=6), {("candidates", "cold")}),
    ],
    ids=lambda value: "-".join(sorted(map("-".join, value))) if isinstance(value, set) else "",
)
def test_a_planted_drift_is_found_where_it_is(first, tmp_path, world, expected):
    other = write(tmp_path / "b", 5, world, prefix="other")

    assert found(drift(first, other)) == expected


@pytest.mark.slow
def test_new_candidates_are_a_drift_of_the_ids_and_of_what_they_are_like(first, tmp_path):
    items = [*ITEMS[:10], *(f"new-{number:02d}" for number in range(10))]
    other = write(tmp_path / "b", 4, World(items=items), prefix="other")

    result = drift(first, other)

    assert result.churn["item"] == Churn(kept=10, new=10, gone=10)
    [unknown] = [one for one in result.differences if (one.name, one.what) == ("item", "unknown")]
    assert unknown.a == 0.0
    assert unknown.b == pytest.approx(0.5, abs=0.06)
    assert unknown.is_drift


def test_the_result_is_the_same_again_and_says_what_it_compared(first, drifted, result):
    assert result.as_dict() == drift(first, drifted).as_dict()
    assert result.title.endswith("differ by more than chance")
    assert result.drifting(above=0.9) == []
    assert result.to_frame().loc[("label", "positive"), "is_drift"]


@pytest.mark.slow
def test_which_tokens_are_too_rare_for_a_vocabulary_is_no_drift(tmp_path):
    config = parse_config(
        CONFIG_TEXT.replace("item: {kind: id}", "item: {kind: id, min_count: 40}"), "drift"
    )
    a = write(tmp_path / "a", 1, World(), config=config, vocabulary=ITEMS[:12])
    b = write(
        tmp_path / "b", 2, World(), "other", config=config, vocabulary=ITEMS[:6] + ITEMS[12:18]
    )

    [unknown] = [
        one for one in drift(a, b).differences if (one.name, one.what) == ("item", "unknown")
    ]

    # Each lacks 8 of 20.
    assert unknown.a == pytest.approx(0.4, abs=0.06)
    assert unknown.b == pytest.approx(0.4, abs=0.06)
    assert not unknown.is_drift


# --- served queries -------------------------------------------------------------------------


def test_served_queries_of_the_population_that_was_trained_on_do_not_drift(first, tmp_path):
    result = drift(first, requests=write_requests(tmp_path / "logs", 2, World()))

    assert found(result) == set()
    assert result.num_examples == (NUM_USERS * EVENTS_EACH,) * 2
    assert result.skipped == {"other_inputs": 1}
    assert result.churn == {}
    compared = {(one.name, one.what) for one in result.differences if one.noise is not None}
    assert {
        *((name, "missing") for name in CONFIG.query_features),
        *((name, "values") for name in CONFIG.query_features if name != "user"),
        *((name, "unknown") for name in ("user", "plan", "recent")),
        ("recent", "length"),
    } == compared


def test_drifts_of_served_queries_are_found_and_nothing_else(first, tmp_path):
    world = World(
        query=all_of(key_is("plan", 0), key_is("age", 1.5)),
        context=all_of(key_is("moment", [9, 1]), key_is("recent", [1, 0])),
    )
    result = drift(first, requests=write_requests(tmp_path / "logs", 5, world, "new-{}"))

    values = {(name, "values") for name in ("age", "moment", "recent")}
    unknown = {("user", "unknown"), ("recent", "unknown")}
    assert found(result) == values | unknown | {("plan", "missing")}
    [users] = [one for one in result.differences if (one.name, one.what) == ("user", "unknown")]
    assert (users.a, users.b) == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "expected"),
    [
        (World(query=key_is("plan", 1)), {("plan", "unknown"), ("plan", "values")}),
        (World(query=key_is("plan", 3)), {("plan", "values")}),
        (World(query=key_is("age", float("nan"))), {("age", "missing")}),
        (World(query=key_is("taste", [3.0, 3.0])), {("taste", "values")}),
        (World(context=key_is("mobile", 1.0)), {("mobile", "values")}),
        (World(context=key_is("recent", [0, 0])), {("recent", "missing")}),
        (World(context=key_is("recent", [2, 3])), {("recent", "values"), ("recent", "length")}),
    ],
    ids=lambda value: "-".join(sorted(map("-".join, value))) if isinstance(value, set) else "",
)
def test_a_drift_of_served_queries_is_found_where_it_is(first, tmp_path, world, expected):
    assert found(drift(first, requests=write_requests(tmp_path / "logs", 5, world))) == expected


def test_logs_that_cannot_be_compared_are_refused(first, tmp_path):
    logs = tmp_path / "logs"
    with pytest.raises(UserError, match=r"no \*\.tfrecord\.gz in .*logs"):
        drift(first, requests=logs)
    write_log(logs, record(1, {"item": ["item-00"]}, {}))
    with pytest.raises(UserError, match=r"no request in .*logs has all features of .*: name"):
        drift(first, requests=logs)
    (logs / "retrieval-1.tfrecord.gz").write_bytes(b"damaged")
    with pytest.raises(UserError, match="is no request log, or damaged"):
        drift(first, requests=logs)
    for others in ({}, {"b": first, "requests": logs}):
        with pytest.raises(UsageError, match="compare with another prepared folder, or with"):
            drift(first, **others)


def test_what_cannot_be_compared_is_refused(first, tmp_path):
    with pytest.raises(UserError, match="has no examples of validation"):
        drift(first, first, split="validation")
    with pytest.raises(UsageError, match="unknown split 'tomorrow'"):
        drift(first, first, split="tomorrow")
    config = parse_config(CONFIG_TEXT.replace("dimension: 2", "dimension: 3"), "drift")
    numbers: Mapping[str, Any] = NUMBERS
    other = write_prepared_folder(
        tmp_path / "b",
        config,
        vocabularies={"user": [], "plan": [], "item": [], "genres": []},
        candidates={},
        examples={},
        numbers=numbers,
    )
    with pytest.raises(UserError, match="was prepared with another schema"):
        drift(first, other)


def test_the_command_tells_alarms_by_its_exit_code(result, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        tt, "drift", lambda *args, requests, **_: asked.append((*args, requests)) or result
    )
    folders = ["first", "second"]

    assert main(["drift", *folders, "--fail_above", "0.1", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["churn"]["item"] == {"kept": 20, "new": 0, "gone": 0}
    assert "drift above 0.1: " in told.err
    assert "label positive" in told.err

    assert main(["drift", *folders, "--fail_above", "0.9"]) == 0
    assert "label" in capsys.readouterr().out
    assert asked == [(Path("first"), Path("second"), None)] * 2
    assert main(["drift", "first", "--requests", "logs", "--fail_above", "0.1"]) == 1
    assert asked[2:] == [(Path("first"), None, Path("logs"))]

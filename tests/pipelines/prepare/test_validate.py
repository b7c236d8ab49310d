"""Which rows are sound, and the reason for each of the others."""

import pyarrow as pa
import pytest

from pipelines.prepare.catalogue import Catalogue, catalogue_table
from pipelines.prepare.validate import REASONS, validate_entities, validate_events
from tfrs_twotower.schema import parse_config

CONFIG = """
columns: {timestamp: t, event: kind, value: stars, order: place}
labels: {events: {view: {weight: 0.5}, skip: {label: 0}}, values: {1: {label: 0}, 5: {weight: 2}}}
features:
  query: {user_id: {kind: id}}
  context: {dwell: {kind: number}}
  candidate: {item_id: {kind: id}}
"""
ROW = {
    "user_id": "u", "item_id": "i", "t": "100", "kind": "view", "stars": "", "place": "1",
    "dwell": "2.5",
}  # fmt: skip


def validate(row=None, config=CONFIG):
    table = pa.table({name: [value] for name, value in (ROW | (row or {})).items()})
    return validate_events(
        table, parse_config(config, "c"), Catalogue(catalogue_table(pa.array(["i"])))
    )


def reason_of(row):
    valid = validate(row)
    code = int(valid.reasons[0])
    assert valid.table.num_rows == (code < 0)
    return None if code < 0 else REASONS[code]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param({}, None, id="sound"),
        pytest.param({"user_id": ""}, "missing_id", id="no-query"),
        pytest.param({"item_id": None}, "missing_id", id="no-candidate"),
        pytest.param({"t": ""}, "bad_timestamp", id="no-time"),
        pytest.param({"t": "soon"}, "bad_timestamp", id="word"),
        pytest.param({"t": "-5"}, "bad_timestamp", id="negative"),
        pytest.param({"t": "4200000000"}, "bad_timestamp", id="far-future"),
        pytest.param({"t": "1700000000000"}, "timestamp_not_seconds", id="milliseconds"),
        pytest.param({"t": "1700000000000000"}, "timestamp_not_seconds", id="microseconds"),
        pytest.param({"t": "2024-13-01T10:00:00Z"}, "timestamp_not_seconds", id="no-such-month"),
        pytest.param({"t": "1700000000.25"}, "timestamp_not_seconds", id="fraction"),
        pytest.param({"t": "1700000000.0"}, None, id="whole-float"),
        pytest.param({"place": "x"}, "bad_order", id="order"),
        pytest.param({"kind": "buy"}, "unknown_event", id="event-without-rule"),
        pytest.param({"stars": "many"}, "bad_value", id="value-no-number"),
        pytest.param({"stars": "3"}, "unknown_value", id="value-without-rule"),
        pytest.param({"dwell": "long"}, "bad_feature", id="feature"),
        pytest.param({"dwell": ""}, None, id="missing-feature"),
        pytest.param({"item_id": "j"}, "unknown_candidate", id="unknown-candidate"),
        pytest.param({"user_id": "", "item_id": "j"}, "missing_id", id="first-reason-wins"),
    ],
)
def test_a_row_is_sound_or_rejected_for_its_first_fault(row, reason):
    assert reason_of(row) == reason


@pytest.mark.parametrize(
    ("kind", "stars", "label", "weight"),
    [
        pytest.param("view", "", 1, 0.5, id="event-alone"),
        pytest.param("skip", "", 0, 1.0, id="negative-event"),
        pytest.param("view", "1", 0, 0.5, id="value-overrules"),
        pytest.param("skip", "5", 1, 2.0, id="value-lifts"),
        pytest.param("view", "5", 1, 1.0, id="weights-multiply"),
    ],
)
def test_labels_and_weights(kind, stars, label, weight):
    row = validate({"kind": kind, "stars": stars}).table.to_pylist()[0]

    assert (row["label"], row["weight"]) == (label, weight)


@pytest.mark.parametrize(("stars", "label"), [("4", 1), ("3.5", 0), ("", 1)])
def test_values_from_a_threshold_on_are_positives(stars, label):
    config = "columns: {timestamp: t, value: stars}\nlabels: {positive_from: 4}"

    assert validate({"stars": stars}, config).table.to_pylist()[0]["label"] == label


def test_a_negative_by_its_value_gives_way_to_no_positive():
    """The window is that of the event's rule, which says nothing where a value decides."""
    config = (
        "columns: {timestamp: t, event: kind, value: stars}\n"
        "labels:\n"
        "  events: {shown: {label: 0, unless_positive_within_s: 60}}\n"
        "  values: {1: {label: 0}}\n"
        "features: {query: {user_id: {kind: id}}, candidate: {item_id: {kind: id}}}\n"
    )
    for stars, window_s in (("", 60), ("1", 0)):
        table = validate({"kind": "shown", "stars": stars}, config).table

        assert table.select(["label", "window_s"]).to_pylist() == [
            {"label": 0, "window_s": window_s}
        ]


def test_a_candidate_keeps_title_attributes_and_features():
    config = """
columns: {timestamp: null, title: name, available_from: since}
split: {by: random}
features: {query: {user_id: {kind: id}}, candidate: {item_id: {kind: id}, price: {kind: number}}}
export: {attributes: [colour]}
"""
    table = pa.table(
        {"item_id": [1, 2], "name": ["A", "B"], "since": [5, None], "price": ["1.5", "dear"],
         "colour": ["red", None]}
    )  # fmt: skip

    valid = validate_entities(table, parse_config(config, "c"), "candidate")

    assert valid.table.to_pylist() == [
        {"candidate_id": "1", "title": "A", "available_from": 5, "attribute:colour": "red",
         "feature:price": 1.5}
    ]  # fmt: skip
    assert REASONS[valid.reasons[1]] == "bad_feature"

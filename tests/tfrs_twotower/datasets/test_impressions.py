"""A request log, written by hand, as impressions in a dataset folder."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from tests.request_logs import answers, record, write_log
from tfrs_twotower.datasets.impressions import read_impressions, write_impressions
from tfrs_twotower.schema import UsageError, UserError, parse_config

CONFIG = """\
columns: {query_id: user, candidate_id: item, timestamp: ts, event: action}
labels: {events: {click: {}, impression: {label: 0, unless_positive_within_s: 60}}}
features:
  query: {user: {kind: id}}
  context:
    device: {kind: categorical}
    price: {kind: number, column: cents}
    gift: {kind: boolean}
    tags: {kind: multi_categorical}
    clock: {kind: timestamp}
  candidate: {item: {kind: id}}
"""
BARE = CONFIG[: CONFIG.index("  context")] + "  candidate: {item: {kind: id}}\n"


def config(text=CONFIG):
    return parse_config(text, "twotower.yaml")


def test_each_valid_slot_is_an_impression(tmp_path):
    path = write_log(
        tmp_path,
        record(100, {"user": ["u1", "u2"]}, answers(["a", "b"], ["c"]), label="canary"),
        record(101, {"user": ["u1"]}, answers(["b"]), version=8),
    )

    table = read_impressions(path, config(BARE), Counter())

    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("u1", "a", 100, 1, "retrieval", 7, "canary"),
        ("u1", "b", 100, 2, "retrieval", 7, "canary"),
        ("u2", "c", 100, 1, "retrieval", 7, "canary"),
        ("u1", "b", 101, 1, "retrieval", 8, ""),
    ]


def test_what_has_no_impressions_is_counted(tmp_path):
    skipped = Counter()
    path = write_log(
        tmp_path,
        record(100, {"user": ["u1"]}, {"query_embedding": [[1.0, 0.0]]}),
        record(100, {"user": ["", "u2"]}, answers(["a"], ["b"])),
        record(100, {}, answers(["a"])),
        record(100, {"user": ["u3"]}, {"candidate_ids": [[""]], "valid_count": [0]}),
    )

    table = read_impressions(path, config(BARE), skipped)

    assert table["query_id"].to_pylist() == ["u2"]
    assert skipped == {"other_signature": 1, "no_query_id": 2}


def test_only_the_first_ranks_were_shown(tmp_path):
    path = write_log(tmp_path, record(100, {"user": ["u"]}, answers(["a", "b", "c"])))

    table = read_impressions(path, config(BARE), Counter(), max_rank=2)

    assert table["candidate_id"].to_pylist() == ["a", "b"]


def test_the_context_of_the_request_is_that_of_the_impression(tmp_path):
    given = {
        "user": ["u1", "u2"],
        "device": ["phone", ""],
        "price": [2.5, float("nan")],
        "gift": [1.0, float("nan")],
        "tags": [["x", "y"], ["z", ""]],
        "clock": tf.constant([100, 0], tf.int64),
    }
    log = write_log(tmp_path / "logs", record(100, given, answers(["a"], ["b"]))).parent
    output = tmp_path / "interactions-shown.parquet"

    written = write_impressions(log, config(), output)

    assert written.num_impressions == 2
    first, second = pq.read_table(output).to_pylist()
    assert first == {
        "user": "u1",
        "item": "a",
        "ts": 100,
        "action": "impression",
        "device": "phone",
        "cents": 2.5,
        "gift": True,
        "tags": ["x", "y"],
        "served_rank": 1,
        "served_model": "retrieval",
        "served_version": 7,
        "served_label": "",
    }
    assert [second[name] for name in ("device", "cents", "gift", "tags")] == [
        *(None, None, None),
        ["z"],
    ]


@pytest.mark.parametrize(
    ("time_format", "written"),
    [("milliseconds", 86_400_000), ("'%d/%m/%Y'", "02/01/1970")],
)
def test_times_are_written_as_the_folder_has_them(tmp_path, time_format, written):
    log = write_log(tmp_path / "logs", record(86_400, {"user": ["u"]}, answers(["a"]))).parent
    output = tmp_path / "interactions-shown.parquet"
    text = BARE.replace("event: action", f"event: action, time_format: {time_format}")

    write_impressions(log, config(text), output)

    assert pq.read_table(output)["ts"].to_pylist() == [written]


def test_files_follow_one_another_and_unfinished_ones_are_left(tmp_path):
    logs = tmp_path / "logs"
    for number, user in ((2, "second"), (1, "first")):
        data = record(100, {"user": [user]}, answers(["a"]))
        write_log(logs, data, name=f"m-{number}.tfrecord.gz")
    (logs / "m-3.tfrecord.gz.tmp").write_bytes(b"of a server that was killed")
    output = tmp_path / "interactions-shown.parquet"

    assert write_impressions(logs, config(BARE), output).num_files == 2

    assert pq.read_table(output)["user"].to_pylist() == ["first", "second"]
    with pytest.raises(UsageError, match="exists"):
        write_impressions(logs, config(BARE), output)
    assert write_impressions(logs, config(BARE), output, overwrite=True).num_impressions == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(
            BARE.replace(", event: action", "").replace("labels:", "search: {} #"),
            "columns.event",
            id="no event",
        ),
        pytest.param(BARE.replace("impression:", "shown:"), "no negative event", id="other event"),
        pytest.param(
            BARE.replace("{label: 0, unless_positive_within_s: 60}", "{}"),
            "no negative event",
            id="positive",
        ),
    ],
)
def test_a_config_without_the_event_is_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        write_impressions(tmp_path, config(text), tmp_path / "interactions-shown.parquet")


def test_a_name_that_is_not_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="interactions"):
        write_impressions(tmp_path, config(BARE), tmp_path / "shown.parquet")


def test_a_log_that_is_absent_or_damaged_is_named(tmp_path):
    output = tmp_path / "interactions-shown.parquet"
    with pytest.raises(UserError, match="logging_config"):
        write_impressions(tmp_path, config(BARE), output)
    (tmp_path / "m.tfrecord.gz").write_bytes(b"rubbish")

    with pytest.raises(UserError, match=r"m\.tfrecord\.gz is no request log"):
        write_impressions(tmp_path, config(BARE), output)

    assert not output.exists()


def test_prepare_takes_them_as_explicit_negatives(tmp_path):
    """The rows pass the checks of `prepare`, beside a log of clicks."""
    from pipelines.prepare.validate import LABEL, WINDOW_S, validate_events

    log = write_log(tmp_path / "logs", record(100, {"user": ["u"]}, answers(["a", "b"]))).parent
    output = tmp_path / "interactions-shown.parquet"
    write_impressions(log, config(), output)

    checked = validate_events(pq.read_table(output), config(), None)

    assert (checked.reasons < 0).all()
    assert checked.table[LABEL].to_pylist() == [0, 0]
    assert checked.table[WINDOW_S].to_pylist() == [60, 60]
    assert pa.types.is_string(checked.table["candidate_id"].type.value_type)

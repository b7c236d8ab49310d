"""pandas frames prepare to the very bytes of the files that hold the same log."""

import hashlib
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import prepare
from pipelines.prepare.frames import write_frames
from tfrs_twotower.schema import UserError, parse_config

CONFIG = """\
columns: {query_id: user, candidate_id: item, timestamp: ts, title: name, available_from: since}
features:
  query: {user: {kind: id}, home: {kind: categorical}, joined: {kind: timestamp}}
  context: {clock: {kind: timestamp, column: ts}}
  candidate:
    item: {kind: id}
    tags: {kind: multi_categorical}
    price: {kind: number}
    content: {kind: vector, dimension: 2}
export: {attributes: [released]}
"""
CONFIG_OF_EVENTS = """\
columns: {query_id: user, candidate_id: item, timestamp: ts}
features:
  query: {user: {kind: id}}
  candidate: {item: {kind: id}}
"""
START = 1_700_000_000


def config(text: str = CONFIG):
    return parse_config(text, "test")


def plain() -> dict[str, pd.DataFrame]:
    """The log as files hold it: text, numbers, Unix seconds."""
    events = [(f"u{n % 7}", f"i{n % 5}", START + 3600 * n) for n in range(70)]
    return {
        "interactions": pd.DataFrame(events, columns=["user", "item", "ts"]),
        "candidates": pd.DataFrame(
            {
                "item": [f"i{n}" for n in range(5)],
                "name": [f"Item {n}" for n in range(5)],
                "since": [START - 1, None, START, START + 5, START + 6],
                "tags": ["red|new", None, "blue", "red", "new"],
                "price": [1.5, None, 3.0, 4.0, 5.0],
                "content": ["0 1", "1 0", "1 1", "0 0", "2 1"],
                "released": ["2024-01-01", "", "x", "y", "z"],
            }
        ),
        "queries": pd.DataFrame(
            {
                "user": [f"u{n}" for n in range(7)],
                "home": ["Rome", "Oslo", "", "Rome", "Rome", "Oslo", "Oslo"],
                "joined": [START - n for n in range(7)],
            }
        ),
    }


def as_people_have_them() -> dict[str, pd.DataFrame]:
    """The same log with categoricals, datetimes, lists, arrays, an index and a column too many."""
    frames = plain()
    events, candidates, queries = frames.values()
    events["user"] = pd.Categorical(events["user"], [f"u{n}" for n in range(9)])
    # Half a second later: a fraction is cut off.
    events["ts"] = pd.to_datetime(events["ts"] * 1000 + 500, unit="ms")
    events["anything"] = [{"no": "matter"}] * len(events)
    events.index = events.index[::-1]
    candidates["since"] = pd.to_datetime(candidates["since"], unit="s", utc=True)
    candidates["tags"] = [["red", "new"], [], ["blue"], ("red",), np.array(["new"])]
    candidates["price"] = candidates["price"].astype("Float32")
    candidates["content"] = [np.array([float(x) for x in t.split()]) for t in candidates["content"]]
    queries["home"] = pd.Categorical(queries["home"].replace("", None))
    joined = pd.to_datetime(queries["joined"], unit="s", utc=True)
    queries["joined"] = joined.dt.tz_convert("Asia/Tokyo")
    return frames


def contents(folder) -> dict:
    """The manifest, with the digests of all files but not their names, which differ by run."""
    manifest = json.loads((folder / "manifest.json").read_text())
    # The run's own name, and those of the files that it read.
    assert manifest.pop("run")
    assert manifest["counts"].pop("files")
    for what, files in manifest["files"].items():
        for file in files:
            data = (folder / file.pop("path")).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
        manifest["files"][what] = sorted(files, key=lambda file: file["sha256"])
    return manifest


def test_frames_and_files_prepare_to_the_same_bytes(tmp_path):
    files, frames = tmp_path / "files", tmp_path / "frames"
    for folder in (files, frames):
        folder.mkdir()
    for kind, frame in plain().items():
        frame.to_csv(files / f"{kind}.csv", index=False)
    write_frames(frames, config(), as_people_have_them())

    for folder in (files, frames):
        prepare(config(), str(folder), str(folder / "out"))

    manifest = contents(frames / "out")
    assert manifest == contents(files / "out")
    assert manifest["counts"]["read"] == 70
    assert manifest["counts"]["rejected"] == {}


@pytest.mark.parametrize(
    ("moments", "seconds"),
    [
        pytest.param(pd.to_datetime(["1970-01-02"]), 86_400, id="without a time zone"),
        pytest.param(pd.to_datetime(["1969-12-31 23:59:58.5"]), -2, id="cut off downwards"),
        pytest.param(
            pd.to_datetime(["1970-01-01 09:00:01"]).tz_localize("Asia/Tokyo"), 1, id="time zone"
        ),
        pytest.param([pd.Timestamp("1970-01-02").date()], 86_400, id="date"),
        pytest.param(pd.to_datetime([pd.NaT]), None, id="missing"),
        pytest.param([12.0], 12, id="number"),
    ],
)
def test_moments_become_unix_seconds(tmp_path, moments, seconds):
    events = pd.DataFrame({"user": ["u"], "item": ["i"], "ts": moments})

    write_frames(tmp_path, config(CONFIG_OF_EVENTS), {"interactions": events})

    table = pq.read_table(tmp_path / "interactions.parquet")
    assert table.column("ts").to_pylist() == [seconds]


def test_a_datetime_that_is_no_moment_of_the_config_stays_one(tmp_path):
    frames = plain()
    frames["candidates"]["released"] = pd.to_datetime(["2024-01-01"] * 5)

    write_frames(tmp_path, config(), frames)

    table = pq.read_table(tmp_path / "candidates.parquet")
    assert pa.types.is_timestamp(table.schema.field("released").type)


def without(kind):
    return {name: frame for name, frame in plain().items() if name != kind}


def changed(kind, **columns):
    frames = plain()
    return {**frames, kind: frames[kind].assign(**columns)}


def renamed(kind, **names):
    frames = plain()
    return {**frames, kind: frames[kind].rename(columns=names)}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        pytest.param(without("interactions"), "no `interactions`", id="no interactions"),
        pytest.param(
            without("candidates"),
            "no `candidates`, but `columns.title` needs their column `name`: give the frame",
            id="no candidates",
        ),
        pytest.param(
            renamed("interactions", ts="tss"),
            "`interactions` has no column `ts`, named by `columns.timestamp`; did you mean `tss`",
            id="no column",
        ),
        pytest.param(
            {**plain(), "queries": plain()["queries"].iloc[:, [0, 1, 2, 1]]},
            "`queries` has two columns `home`: rename one",
            id="two columns",
        ),
        pytest.param(
            changed("candidates", tags=[1, "a", 2, "b", 3]),
            "`candidates`: column `tags` cannot be read .*: give all its values one type",
            id="mixed",
        ),
        pytest.param(
            changed("queries", home=pd.cut(pd.Series(range(7)), 2)),
            "`queries`: column `home`.*interval.*",
            id="intervals",
        ),
        pytest.param(
            changed("queries", home=[{"city": "Rome"}] * 7),
            "`queries`: column `home`, named by `features.query.home`, is of type struct",
            id="dicts",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_line(tmp_path, frames, message):
    with pytest.raises(UserError, match=message) as raised:
        write_frames(tmp_path, config(), frames)
    assert len(str(raised.value).splitlines()) == 1

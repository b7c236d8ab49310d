"""What comes from the cache is what reading gives; what has changed, or is damaged, is read."""

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.io import filesystem
from pipelines.prepare import dataset_files, parsing
from pipelines.prepare.cache import HEAD_ROWS, Cache, batches_of, head_of
from pipelines.prepare.dataset_files import INTERACTIONS, needed_columns, open_dataset
from pipelines.prepare.validate import numeric_columns
from tests.pipelines.stores.memory import PREFIX, STORE
from tfrs_twotower.schema import UserError, parse_config

TEXT = """
columns: {query_id: user, candidate_id: item, timestamp: when}
features:
  query: {user: {kind: id}, history: {kind: history, length: 3}}
  candidate: {item: {kind: id}}
  context: {price: {kind: number}}
"""
CONFIG = parse_config(TEXT, "twotower.yaml")
LINES = ['{"user": "u1", "item": "é", "when": 86400, "price": 0.1}', "broken", '{"user": ""}', ""]
CSV_LINES = ["user,item,when,price", "u2,b,100000,2.5", "u3,only", ",b,1,1", '"u,4",c,soon,']
EVENTS = {
    "user": ["u5", None],
    "item": ["a", "b"],
    "when": pa.array([90000, 90001], pa.timestamp("s")),
    "price": [1.5, None],
    "tags": [["x"], []],
}


@pytest.fixture
def log(tmp_path):
    """A log of three days, in JSON, CSV and Parquet, with rows of each that cannot be used."""
    for day, (name, data) in enumerate(
        {
            "part.jsonl.gz": gzip.compress("\n".join(LINES).encode()),
            "part.csv": "\n".join(CSV_LINES).encode() + b"\n\xff,b,1,2\n",
        }.items()
    ):
        folder = tmp_path / "log" / f"interactions/day=2024-05-0{day + 1}"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(data)
    (tmp_path / "log/interactions/day=2024-05-03").mkdir()
    pq.write_table(pa.table(EVENTS), tmp_path / "log/interactions/day=2024-05-03/part.parquet")
    return tmp_path / "log"


@pytest.fixture
def opened(monkeypatch):
    """Names of the log's files that are opened."""
    names = []
    open_raw = filesystem.open_raw

    def recorded(path):
        if not path.endswith((".batches", ".json")):
            names.append(Path(path).name)
        return open_raw(path)

    monkeypatch.setattr(filesystem, "open_raw", recorded)
    return names


def as_values(batches):
    """All that is in batches, types among it."""
    return [
        (
            batch.table.schema.to_string(),
            batch.table.to_pylist(),
            batch.rows.tolist(),
            batch.rejects,
            [batch.rejected(row, "why") for row in range(len(batch.rows))],
        )
        for batch in batches
    ]


def read(log, config=CONFIG, cache=None, batches_of=batches_of):
    """The batches of all parts, and what is told of the cache."""
    kept = Cache(str(cache), str(log)) if cache else None
    cut_file = kept.cut_file if kept else dataset_files.cut_file
    dataset = open_dataset(str(log), config, cut_file)
    columns, numeric = list(needed_columns(config, INTERACTIONS)), numeric_columns(config)
    if kept:
        kept.begin()
    found = [as_values(batches_of(chunk, columns, numeric)) for chunk in dataset.chunks]
    return found, kept.end(dataset.chunks) if kept else ""


def entries(cache):
    return sorted(cache.rglob("*.batches"))


def test_the_cache_gives_what_reading_gives_and_opens_no_file(log, tmp_path, opened):
    plain, _ = read(log, batches_of=parsing.read_chunk)

    first, told_first = read(log, cache=tmp_path / "cache")
    opened.clear()
    second, told_second = read(log, cache=tmp_path / "cache")

    assert first == second == plain
    assert opened == []
    assert told_first == "0 of 3 parts of files came from the cache"
    assert told_second == "3 of 3 parts of files came from the cache"
    reasons = [reject.reason for part in plain for batch in part for reject in batch[3]]
    assert sorted(reasons) == ["invalid_utf8", "malformed_line", "malformed_line"]


def test_of_a_new_day_and_a_changed_one_no_other_is_read(log, tmp_path, opened):
    read(log, cache=tmp_path / "cache")
    new = log / "interactions/day=2024-05-04/new.csv"
    new.parent.mkdir()
    new.write_text("user,item,when,price\nu9,z,200000,9\n")
    changed = log / "interactions/day=2024-05-02/part.csv"
    changed.write_text(changed.read_bytes().decode(errors="ignore").replace("u2", "u7"))
    expected, _ = read(log)
    opened.clear()

    found, told = read(log, cache=tmp_path / "cache")

    assert found == expected
    assert set(opened) == {"new.csv", "part.csv"}
    assert told == "2 of 4 parts of files came from the cache"
    # What was parsed of the file as it was before has gone.
    assert len(entries(tmp_path / "cache")) == 4
    assert len(list((tmp_path / "cache").rglob("files-*"))) == 1


def test_a_file_of_the_same_size_with_another_time_is_read(log, tmp_path, opened):
    read(log, cache=tmp_path / "cache")
    path = log / "interactions/day=2024-05-02/part.csv"
    path.write_bytes(path.read_bytes().replace(b"u2", b"u8"))
    os.utime(path, (1e9, 1e9))
    opened.clear()

    found, _ = read(log, cache=tmp_path / "cache")

    assert set(opened) == {"part.csv"}
    assert found == read(log)[0]


@pytest.mark.parametrize(
    ("section", "is_read"),
    [
        pytest.param("labels: {implicit: 0.5}", False, id="labels"),
        pytest.param("split: {by: random}", False, id="split"),
        pytest.param('files: {separator: ","}', True, id="files"),
        pytest.param("", True, id="columns"),
    ],
)
def test_only_what_changes_the_parsing_makes_a_config_read_anew(
    log, tmp_path, opened, section, is_read
):
    if section.startswith("labels"):
        section = "labels: {positive_from: 1}"
        other = TEXT.replace("timestamp: when", "timestamp: when, value: price")
        first, config = (parse_config(text, "c") for text in (other, other + section))
    else:
        text = TEXT.replace("  context: {price: {kind: number}}\n", "") if not section else TEXT
        first, config = CONFIG, parse_config(text + section, "c")
    read(log, first, cache=tmp_path / "cache")
    opened.clear()

    found, _ = read(log, config, cache=tmp_path / "cache")

    assert bool(opened) == is_read
    assert found == read(log, config)[0]


def damaged(data):
    return data[:200] + bytes([data[200] ^ 1]) + data[201:]


def without_end(data):
    return data[:-40]


@pytest.mark.parametrize("damage", [damaged, without_end, lambda _: b"", lambda _: b"\xff" * 99])
def test_a_damaged_entry_is_read_anew_and_replaced(log, tmp_path, opened, damage):
    read(log, cache=tmp_path / "cache")
    for path in entries(tmp_path / "cache"):
        path.write_bytes(damage(path.read_bytes()))
    opened.clear()

    found, told = read(log, cache=tmp_path / "cache")

    assert len(opened) == 3
    assert told == "0 of 3 parts of files came from the cache"
    assert found == read(log)[0]
    assert len(entries(tmp_path / "cache")) == 3
    assert read(log, cache=tmp_path / "cache")[1].startswith("3 of 3")


def test_an_entry_under_the_name_of_another_is_not_trusted(log, tmp_path):
    read(log, cache=tmp_path / "cache")
    one, other, _ = entries(tmp_path / "cache")
    one.write_bytes(other.read_bytes())

    found, told = read(log, cache=tmp_path / "cache")

    assert told.startswith("2 of 3")
    assert found == read(log)[0]


def test_batches_before_the_damage_come_once(log, tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "STREAM_BATCH_BYTES", 64)
    expected = read(log, cache=tmp_path / "cache")[0]
    assert max(map(len, expected)) > 1
    for path in entries(tmp_path / "cache"):
        path.write_bytes(without_end(path.read_bytes()))

    assert read(log, cache=tmp_path / "cache")[0] == expected
    assert read(log, cache=tmp_path / "cache")[0] == expected


def test_the_head_of_a_kept_file_is_that_of_the_cache(tmp_path, opened):
    (tmp_path / "log").mkdir()
    lines = [f"u{n},i,{n},1" for n in range(HEAD_ROWS + 5)]
    lines[3] = lines[-1] = "bad"
    text = "\n".join(["user,item,when,price", *lines])
    (tmp_path / "log/interactions.csv").write_text(text)
    read(tmp_path / "log", cache=tmp_path / "cache")
    kept = Cache(str(tmp_path / "cache"), str(tmp_path / "log"))
    [chunk] = open_dataset(str(tmp_path / "log"), CONFIG, kept.cut_file).chunks
    opened.clear()

    [head] = head_of(chunk, ["user"], ())

    assert opened == []
    assert (len(head.rows), len(head.table), head.num_read) == (HEAD_ROWS, HEAD_ROWS, HEAD_ROWS + 1)
    assert head.rejected(3, "why").record == "u4,i,4,1"


def test_object_stores_keep_a_cache(log):
    STORE.clear()
    first, _ = read(log, cache=f"{PREFIX}bucket/cache")

    second, told = read(log, cache=f"{PREFIX}bucket/cache")
    STORE.clear()

    assert first == second
    assert told.startswith("3 of 3")


def test_a_file_whose_time_is_unknown_is_not_kept(log, tmp_path, monkeypatch):
    versions = filesystem.versions
    monkeypatch.setattr(
        filesystem,
        "versions",
        lambda pattern: {path: (size, "") for path, (size, _) in versions(pattern).items()},
    )

    for _ in range(2):
        assert read(log, cache=tmp_path / "cache")[1].startswith("0 of 3")
    assert entries(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_told(log, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="cannot write the cache .*file"):
        read(log, cache=tmp_path / "file")


def test_a_growing_log_is_cut_as_before():
    sizes = [total << 30 for total in range(1, 17)]

    assert {dataset_files._chunk_bytes(size) >> 20 for size in sizes} == {8, 16, 32, 64}
    assert dataset_files._chunk_bytes(5 << 30) == dataset_files._chunk_bytes(7 << 30)


def written(world):
    """What the manifest names, and the rest of it."""
    manifest = json.loads((world.output / "manifest.json").read_text())
    del manifest["run"]
    files = manifest.pop("files")
    return manifest, {kind: sorted(file["sha256"] for file in files[kind]) for kind in files}


@pytest.mark.slow
def test_a_job_with_the_cache_writes_the_same_bytes(world, log, tmp_path, opened):
    world.dataset = log
    rows = [f"u{n % 5},i{n % 7},{90000 + n * n},{n}" for n in range(60)]
    part = log / "interactions/day=2024-05-02/more.csv"
    part.write_text("\n".join(["user,item,when,price", *rows]))
    options = {"max_rejected_share": 0.5, "overwrite": True}
    told = []
    with_cache = {"cache": str(tmp_path / "cache"), "tell": told.append}
    world.prepare(TEXT, **options, **with_cache)
    (log / "interactions/day=2024-05-04").mkdir()
    part.rename(log / "interactions/day=2024-05-04/more.csv")
    part.write_text("user,item,when,price\nu1,i3,150000,1\n,i3,1,1\n")
    world.prepare(TEXT, **options)
    expected = written(world)
    opened.clear()

    world.prepare(TEXT, **options, **with_cache)

    assert written(world) == expected
    assert sum(expected[0]["counts"]["rejected"].values()) > 3
    assert told == [
        "0 of 4 parts of files came from the cache",
        "3 of 5 parts of files came from the cache",
    ]
    assert not {"part.jsonl.gz", "part.parquet", "part.csv"} & set(opened)

"""A folder as it was at a moment holds nothing of what comes later."""

import pandas as pd
import pytest

from pipelines.prepare.as_of import WholeLog
from tfrs_twotower.schema import UsageError, UserError, parse_config

CONFIG_TEXT = """\
columns: {query_id: user, candidate_id: item, timestamp: ts, available_from: since}
features:
  query: {user: {kind: id}, city: {kind: categorical}}
  candidate: {item: {kind: id}, price: {kind: number}}
"""
WITHOUT_FILES = """\
columns: {query_id: user, candidate_id: item, timestamp: ts}
features: {query: {user: {kind: id}}, candidate: {item: {kind: id}}}
"""
WITHOUT_TIMES = WITHOUT_FILES.replace("timestamp: ts", "split: part") + "split: {by: column}\n"
LOG = "user,item,ts\nu1,a,100\nu2,b,200\nu1,b,299\nu3,c,300\nu3,d,400\n"
MALFORMED = "u1,a,soon\nu1,a,400000000000\nu1,a,\n,z,150\nu1\n"
CANDIDATES = "item,price,since\na,1.5,0\nb,2.5,\nc,3.5,300\nd,4.5,299\n"
QUERIES = "user,city\nu1,Rome\nu3,Oslo\n"


def write_log(folder, log=LOG, candidates=None, queries=None):
    folder.mkdir()
    (folder / "interactions.csv").write_text(log)
    if candidates:
        (folder / "candidates.csv").write_text(candidates)
    if queries:
        (folder / "queries.csv").write_text(queries)
    return str(folder)


def read(folder, kind):
    """The rows of a file, or of the files of a folder in their order."""
    paths = sorted(folder.glob(f"{kind}/*.parquet")) or [folder / f"{kind}.parquet"]
    table = pd.concat([pd.read_parquet(path) for path in paths])
    return [tuple(row) for row in table.astype(str).to_numpy()]


@pytest.fixture
def whole(tmp_path):
    config = parse_config(CONFIG_TEXT, "replay")
    return WholeLog.read(write_log(tmp_path / "log", LOG, CANDIDATES, QUERIES), config)


def test_what_happens_from_the_moment_on_is_not_there(whole, tmp_path):
    whole.write(tmp_path / "then", 300)

    events = read(tmp_path / "then", "interactions")
    assert events == [("u1", "a", "100"), ("u2", "b", "200"), ("u1", "b", "299")]
    assert len(read(tmp_path / "then", "queries")) == 2


def test_candidates_are_those_available_before_the_moment(whole, tmp_path):
    whole.write(tmp_path / "then", 300)

    # Of b nothing is known: it was always there.
    assert [row[0] for row in read(tmp_path / "then", "candidates")] == ["a", "b", "d"]


def test_without_a_candidates_file_they_are_those_that_the_log_has_had(tmp_path):
    config = parse_config(WITHOUT_FILES, "replay")
    whole = WholeLog.read(write_log(tmp_path / "log", LOG + MALFORMED), config)

    whole.write(tmp_path / "then", 300)

    ids = sorted(row[0] for row in read(tmp_path / "then", "candidates"))
    assert ids == ["a", "b", "z"]


def test_rows_without_a_usable_time_are_counted_and_others_are_left_to_be_rejected(tmp_path):
    config = parse_config(WITHOUT_FILES, "replay")
    whole = WholeLog.read(write_log(tmp_path / "log", LOG + MALFORMED), config)

    whole.write(tmp_path / "then", 10_000)

    assert whole.num_without_time == 3
    assert ("", "z", "150") in read(tmp_path / "then", "interactions")


def test_another_future_changes_nothing_before_it(tmp_path):
    config = parse_config(WITHOUT_FILES, "replay")
    folders = []
    for name, log in {"one": LOG, "other": LOG.replace("u3,c,300", "u9,x,555")}.items():
        whole = WholeLog.read(write_log(tmp_path / name, log), config)
        folders.append(tmp_path / f"{name}-then")
        whole.write(folders[-1], 300)

    one, other = map(contents, folders)
    assert one == other


def test_a_later_moment_adds_a_file_to_those_that_are_there(whole, tmp_path):
    for moment_s in (200, 250, 300):
        whole.write(tmp_path / "growing", moment_s)
    before = contents(tmp_path / "growing")

    whole.write(tmp_path / "growing", 500)

    after = contents(tmp_path / "growing")
    assert {name: after[name] for name in before if "/" in name} == {
        name: data for name, data in before.items() if "/" in name
    }
    log = [tuple(line.split(",")) for line in LOG.splitlines()[1:]]
    assert read(tmp_path / "growing", "interactions") == log
    assert [row[0] for row in read(tmp_path / "growing", "candidates")] == ["a", "b", "c", "d"]
    for _ in range(2):
        whole.write(tmp_path / "growing", 300)
        assert contents(tmp_path / "growing") == before


def contents(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_digest_is_that_of_the_content(tmp_path):
    config = parse_config(WITHOUT_FILES, "replay")
    logs = {"one": LOG, "same": LOG, "other": LOG.replace("400", "401")}

    one, same, other = (
        WholeLog.read(write_log(tmp_path / name, log), config).digest for name, log in logs.items()
    )

    assert one == same != other


def test_a_log_without_times_cannot_be_replayed(tmp_path):
    no_column = parse_config(WITHOUT_TIMES, "replay")
    with pytest.raises(UsageError, match="needs `columns.timestamp`"):
        WholeLog.read(write_log(tmp_path / "log"), no_column)
    none = write_log(tmp_path / "none", "user,item,ts\nu1,a,soon\n")
    with pytest.raises(UserError, match="no interaction has a time"):
        WholeLog.read(none, parse_config(WITHOUT_FILES, "replay"))

"""When a step is due, what a finished folder is, and that two runs never share a folder."""

import json
import subprocess
import sys

import pytest

from tfrs_twotower.cli.workdir import (
    RECORDS_FILE,
    Record,
    Records,
    file_digests,
    folder_digest,
    locked,
    why_due,
)
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import MARKER

INPUTS = {"config": {"training": {"epochs": 3, "seed": 1}}, "data": "d1"}


@pytest.mark.parametrize(
    ("record", "found", "reason"),
    [
        pytest.param(None, [], "not made yet", id="new"),
        pytest.param(None, ["x"], "not made yet", id="made-by-others"),
        pytest.param(Record(INPUTS, "x"), ["x"], None, id="unchanged"),
        pytest.param(Record(INPUTS, "x"), ["x", "y"], None, id="newer-beside-it"),
        pytest.param(Record(INPUTS, "x"), [], "its output is gone", id="gone"),
        pytest.param(Record(INPUTS, "x"), ["y"], "its output was changed", id="changed"),
        pytest.param(Record(INPUTS, None), [], "was interrupted", id="interrupted"),
        pytest.param(Record(INPUTS, None), ["x"], "was interrupted", id="ended-unrecorded"),
        pytest.param(
            Record({**INPUTS, "data": "d0"}, "x"), ["x"], "changed: data", id="another-input"
        ),
        pytest.param(
            Record({"config": {"training": {"epochs": 2, "seed": 1}}, "data": "d1"}, None),
            ["x"],
            "changed: config.training.epochs",
            id="another-key",
        ),
        pytest.param(
            Record({**INPUTS, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, "x"),
            ["x"],
            "changed: a, b, c and 2 more",
            id="many",
        ),
    ],
)
def test_a_step_is_due_where_its_inputs_or_its_output_are_not_what_they_were(record, found, reason):
    assert why_due(record, INPUTS, found) == reason


def test_records_are_read_back_as_they_were_written(tmp_path):
    Records(tmp_path)["train"] = Record(INPUTS, None)

    again = Records(tmp_path)
    assert again["train"] == Record(INPUTS, None)
    assert again["export"] is None


@pytest.mark.parametrize("text", ["{", "[]", '{"train": {"no": 1}}', '{"train": 3}'])
def test_damaged_records_are_told_in_a_line(tmp_path, text):
    (tmp_path / RECORDS_FILE).write_text(text)

    with pytest.raises(UserError, match=f"{RECORDS_FILE} is damaged: remove it"):
        Records(tmp_path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "manifest.json").write_text('{"kind": "run"}')
    (tmp_path / "weights").write_bytes(b"1234")
    (tmp_path / "sub" / "facts.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [("manifest.json", '{"kind": "ruN"}'), ("weights", "12345"), ("sub/facts.json", "[]")]
    + [("new", "")],
)
def test_the_digest_of_a_folder_follows_its_names_sizes_and_json(folder, name, content):
    before = folder_digest(folder, "manifest.json")
    assert before == folder_digest(folder, "manifest.json")

    (folder / name).write_text(content)

    assert folder_digest(folder, "manifest.json") != before


def test_files_that_do_not_belong_to_a_folder_do_not_count(folder):
    before = folder_digest(folder, "manifest.json", ["*.json"])

    (folder / "weights").unlink()

    assert folder_digest(folder, "manifest.json", ["*.json"]) == before


def test_a_folder_without_its_last_file_or_with_a_marker_is_not_finished(folder):
    (folder / MARKER).touch()
    assert folder_digest(folder, "manifest.json") is None
    (folder / MARKER).unlink()
    (folder / "manifest.json").unlink()

    assert folder_digest(folder, "manifest.json") is None


def test_the_digest_of_data_is_that_of_its_bytes(tmp_path):
    """SHA-256 of `abc`, from FIPS 180-2."""
    (tmp_path / "interactions.csv").write_bytes(b"abc")
    (tmp_path / "other").write_bytes(b"x")

    assert file_digests(tmp_path, ["interactions*"]) == {
        "interactions.csv": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }


def test_a_second_run_in_a_folder_is_told_of_the_first(tmp_path):
    with (
        locked(tmp_path / "work"),
        pytest.raises(UserError, match="another `twotower run`, .* is at work in"),
        locked(tmp_path / "work"),
    ):
        pass
    with locked(tmp_path / "work"):
        pass


def test_a_step_that_outlives_its_run_keeps_the_folder_locked(tmp_path):
    script = "import sys; print(sys.stdin.readline())"
    with locked(tmp_path) as lock:
        step = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, pass_fds=[lock]
        )

    with pytest.raises(UserError, match="is at work"), locked(tmp_path):
        pass
    step.communicate(b"end\n")
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(UserError, match="cannot write"), locked(tmp_path / "file" / "work"):
        pass


def test_records_are_json_for_people(tmp_path):
    Records(tmp_path)["train"] = Record(INPUTS, "x")

    text = (tmp_path / RECORDS_FILE).read_text(encoding="utf-8")
    assert json.loads(text) == {"train": {"inputs": INPUTS, "output": "x"}}

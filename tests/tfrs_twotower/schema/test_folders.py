"""Output folders are whole or recognisably not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.folders import MANIFEST, MARKER, output_folder, read_manifest, write_json


def make(folder, *files):
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).write_text("{}")
    return folder


def finished(folder):
    return make(folder, "old.bin", MANIFEST)


def killed(folder):
    """What a job leaves that is killed while it writes."""
    script = (
        "import os, signal, sys\n"
        "from tfrs_twotower.schema.folders import output_folder\n"
        "with output_folder(sys.argv[1]) as folder:\n"
        "    (folder / 'half.bin').write_text('x')\n"
        "    (folder / 'deep').mkdir()\n"
        "    (folder / 'deep' / 'half.bin').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert ended.returncode == -9
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_is_made_with_its_parents_and_ends_with_its_manifest_alone(tmp_path):
    with output_folder(tmp_path / "deep" / "out") as folder:
        assert names(folder) == [MARKER]
        (folder / "data.bin").write_text("x")
        write_json(folder / MANIFEST, {"kind": "run"})

    assert names(tmp_path / "deep" / "out") == ["data.bin", MANIFEST]


def test_a_killed_job_leaves_a_marker_and_no_manifest(tmp_path):
    folder = killed(tmp_path / "out")

    assert names(folder) == [MARKER, "deep", "half.bin"]


def test_what_a_killed_job_left_is_not_taken_for_complete(tmp_path):
    folder = killed(tmp_path / "out")

    with pytest.raises(UserError, match=r"out is unfinished: make it with `make runs`"):
        read_manifest(folder, kind="run", made_by="make runs")


def test_the_next_run_clears_what_a_killed_job_left(tmp_path):
    folder = killed(tmp_path / "out")

    with output_folder(folder):
        assert names(folder) == [MARKER]
        write_json(folder / MANIFEST, {})

    assert names(folder) == [MANIFEST]


def test_a_resumed_run_keeps_what_a_killed_job_left(tmp_path):
    folder = killed(tmp_path / "out")

    with output_folder(folder, resume=True):
        assert names(folder) == [MARKER, "deep", "half.bin"]
        write_json(folder / MANIFEST, {})

    assert names(folder) == ["deep", "half.bin", MANIFEST]


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_folder_is_refused_and_left_as_it_is(tmp_path, resume):
    folder = finished(tmp_path / "out")

    with (
        pytest.raises(UsageError, match="out is finished: pass `overwrite=True` to replace it"),
        output_folder(folder, resume=resume),
    ):
        pass

    assert names(folder) == [MANIFEST, "old.bin"]


def test_a_finished_folder_is_replaced_where_the_user_says_so(tmp_path):
    folder = finished(tmp_path / "out")

    with output_folder(folder, overwrite=True):
        assert names(folder) == [MARKER]
        write_json(folder / MANIFEST, {})

    assert names(folder) == [MANIFEST]


def test_a_folder_that_is_replaced_by_halves_does_not_look_finished(tmp_path, monkeypatch):
    folder = finished(tmp_path / "out")
    for number in range(20):
        (folder / f"part-{number}").mkdir()
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt), output_folder(folder, overwrite=True):
        pass

    assert MARKER in names(folder)
    assert MANIFEST not in names(folder)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_refused_even_with_overwrite(tmp_path, overwrite):
    folder = make(tmp_path / "photos", "cat.jpg")

    with (
        pytest.raises(UsageError, match="photos is not empty and no output of twotower: name a"),
        output_folder(folder, overwrite=overwrite),
    ):
        pass

    assert names(folder) == ["cat.jpg"]


def test_an_empty_folder_may_be_used(tmp_path):
    with output_folder(make(tmp_path / "out")) as folder:
        write_json(folder / MANIFEST, {})

    assert names(tmp_path / "out") == [MANIFEST]


def test_a_failed_job_leaves_the_folder_unfinished(tmp_path):
    def fail():
        with output_folder(tmp_path / "out") as folder:
            (folder / "half.bin").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert names(tmp_path / "out") == [MARKER, "half.bin"]


def test_a_job_that_forgets_its_manifest_is_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match="without a manifest"), output_folder(tmp_path / "out"):
        pass

    assert names(tmp_path / "out") == [MARKER]


def test_an_output_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "out").write_text("x")

    with pytest.raises(UserError, match=r"cannot write .*out: Not a directory"):
        output_folder(tmp_path / "out").__enter__()


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        pytest.param(None, "is not a run folder: make it with `make runs`", id="none"),
        pytest.param("{", "is not a run folder: make it with `make runs`", id="cut-short"),
        pytest.param("[]", "is not a run folder: make it with `make runs`", id="not-a-mapping"),
        pytest.param(
            '{"name": "x"}', "is not a run folder: make it with `make runs`", id="foreign"
        ),
        pytest.param(
            '{"kind": "prepared"}', "is a prepared folder, expected a run folder", id="other-kind"
        ),
    ],
)
def test_a_folder_of_another_sort_is_refused(tmp_path, manifest, expected):
    folder = make(tmp_path / "out", "data.bin")
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)

    with pytest.raises(UserError) as caught:
        read_manifest(folder, kind="run", made_by="make runs")

    assert str(caught.value).startswith(f"{folder} {expected}")
    assert "make runs" in str(caught.value)


def test_a_folder_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*absent: make it with `make runs`"):
        read_manifest(tmp_path / "absent", kind="run", made_by="make runs")


def test_a_manifest_reads_back_as_written(tmp_path):
    manifest = {"kind": "run", "names": ["é", "b"], "n": 1.5}

    write_json(tmp_path / MANIFEST, manifest)

    assert read_manifest(tmp_path, kind="run", made_by="make runs") == manifest
    assert names(tmp_path) == [MANIFEST]


def test_equal_values_are_written_as_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": 2})
    write_json(tmp_path / "b", {"y": 2, "x": 1})

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1, "y": 2}


def test_a_full_disk_is_told_in_a_line_and_leaves_nothing_finished(tmp_path):
    with (
        pytest.raises(UserError, match=f"^the disk is full: make room for {tmp_path}/out$"),
        output_folder(tmp_path / "out") as folder,
    ):
        Path("/dev/full").write_text("no write to it finds room")

    assert names(folder) == [MARKER]


def test_an_error_that_is_told_already_stays_as_it_is(tmp_path):
    with (
        pytest.raises(UserError, match="^cannot write elsewhere: No space left on device$"),
        output_folder(tmp_path / "out"),
    ):
        raise UserError("cannot write elsewhere: No space left on device")

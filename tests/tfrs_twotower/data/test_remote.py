"""Folders on an object store, read through local copies; `file://` stands for the store here."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from tfrs_twotower.data import remote
from tfrs_twotower.data.remote import RemoteFolder, only_file, url_of
from tfrs_twotower.schema import UsageError, UserError


def write(folder, **files):
    """A finished folder with files that hold some bytes."""
    listed = []
    for name, data in files.items():
        (folder / "run-1").mkdir(exist_ok=True)
        if data:
            (folder / "run-1" / name).write_bytes(data)
        listed.append({"path": f"run-1/{name}", "bytes": len(data)})
    manifest = {"kind": "prepared", "files": {"letters": listed}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return RemoteFolder(f"file://{folder}/")


@pytest.mark.parametrize(
    ("folder", "url"),
    [
        ("gs://bucket/a", "gs://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("/local/gs:/a", None),
        (Path("prepared"), None),
    ],
)
def test_a_url_is_one_even_where_pathlib_has_taken_a_slash(folder, url):
    assert url_of(folder) == url


def test_files_are_copied_once_and_an_empty_one_need_not_be_there(tmp_path):
    folder = write(tmp_path, a=b"first", b=b"second", none=b"")
    folder.read_manifest(kind="prepared", made_by="a command")
    names = ["run-1/b", "run-1/none", "run-1/a"]

    copies = folder.local_files(names)

    assert [copy.read_bytes() for copy in copies] == [b"second", b"", b"first"]
    shutil.rmtree(tmp_path / "run-1")
    assert folder.local_files(names) == copies


def test_a_file_that_is_gone_is_told(tmp_path):
    folder = write(tmp_path, a=b"first")
    folder.read_manifest(kind="prepared", made_by="a command")
    (tmp_path / "run-1" / "a").unlink()

    with pytest.raises(UserError, match="cannot read file:.*/run-1/a"):
        folder.local_files(["run-1/a"])


def test_a_folder_without_a_manifest_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(UserError, match="(?s)cannot read .*manifest.json.*Make .* `a command`"):
        RemoteFolder(f"file://{tmp_path}").read_manifest(kind="prepared", made_by="a command")


def test_a_store_that_does_not_answer_is_asked_for_a_minute_not_for_a_quarter_of_an_hour(
    monkeypatch,
):
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://127.0.0.1:1")

    opened = RemoteFolder("gs://bucket/prepared")

    _, (options,) = opened._files.__reduce__()
    assert options["anonymous"]
    assert options["retry_time_limit"] == timedelta(seconds=60)


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_folders_only_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, is_remote):
    if is_remote:
        monkeypatch.setattr(remote, "url_of", lambda folder: f"file://{folder}/")
    (tmp_path / "batch").mkdir(exist_ok=True)
    file = tmp_path / "batch" / "x.json"
    for text in ("first", "second"):
        with only_file(tmp_path / "batch", "x.json") as path:
            path.write_text(text)
            assert not file.exists() or file.read_text() == "first"
        assert file.read_text() == text
    with (
        pytest.raises(UserError, match="cannot write .*batch/x.json: no space"),
        only_file(tmp_path / "batch", "x.json") as path,
    ):
        _write_half(path)
    assert file.read_text() == "second"

    (tmp_path / "batch" / "y").touch()
    with (
        pytest.raises(UsageError, match=r"batch holds other files \(y\)"),
        only_file(tmp_path / "batch", "x.json"),
    ):
        pass
    assert file.read_text() == "second"


def _write_half(path):
    path.write_text("half")
    raise OSError("no space")

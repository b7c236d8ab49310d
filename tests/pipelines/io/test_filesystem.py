"""Files on the local disk, as on any Beam filesystem."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io import filesystem
from tfrs_twotower.schema import UserError


def test_a_new_file_knows_what_was_written_to_it(tmp_path):
    with filesystem.create(str(tmp_path / "a" / "b")) as file:
        file.write(b"all ")
        file.write(memoryview(b"of it"))

    data = (tmp_path / "a" / "b").read_bytes()
    assert data == b"all of it"
    assert (file.num_bytes, file.sha256) == (9, hashlib.sha256(data).hexdigest())


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = pa.table({"x": [1, None, 3], "y": ["a", "b", ""]})

    filesystem.write_table(str(tmp_path / "table"), table)

    assert filesystem.read_table(str(tmp_path / "table")).equals(table)


def test_a_mapped_table_takes_no_memory_of_the_process(tmp_path):
    table = pa.table({"x": np.arange(1 << 20)})
    filesystem.write_table(str(tmp_path / "table"), table)
    before = pa.total_allocated_bytes()

    mapped = filesystem.map_table(str(tmp_path / "table"))

    assert pa.total_allocated_bytes() - before < 1 << 16
    assert mapped.equals(table)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path, beside = tmp_path / "manifest", str(tmp_path / "beside")
    path.write_bytes(b"an older and longer text")
    filesystem.replace(str(path), b"new", beside)
    assert path.read_bytes() == b"new"

    def full(*arguments):
        raise OSError("full")

    monkeypatch.setattr(filesystem.NewFile, "write", full)
    with pytest.raises(OSError, match="full"):
        filesystem.replace(str(path), b"newer", beside)
    assert path.read_bytes() == b"new"


def test_what_is_below_a_folder_is_found_and_deleted(tmp_path):
    for name in ("kept", "out/x", "out/deep/er/y"):
        filesystem.write_bytes(str(tmp_path / name), b"12")

    found = filesystem.match(str(tmp_path / "out" / "**"))
    filesystem.delete_below(str(tmp_path / "out"))

    assert found == [(str(tmp_path / "out/deep/er/y"), 2), (str(tmp_path / "out/x"), 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("path", ["/data", "data/log"])
def test_local_folders_are_reachable(path):
    filesystem.check_reachable(path)


@pytest.mark.parametrize("scheme", ["ftp", "hdfs", "azfs", "S4"])
def test_a_scheme_that_cannot_work_is_refused_with_what_can(scheme):
    with pytest.raises(UserError) as refused:
        filesystem.check_reachable(f"{scheme}://host/data")

    message = str(refused.value)
    assert f"cannot read or write {scheme}:// here" in message
    assert "gs:// or s3://" in message


@pytest.mark.parametrize(("scheme", "extra"), [("gs", "gcp"), ("s3", "aws")])
def test_a_store_whose_packages_are_missing_names_the_extra(scheme, extra, monkeypatch):
    def missing(path: str) -> None:
        raise ValueError(f"Unable to get filesystem from specified path: {path}")

    monkeypatch.setattr(filesystem.FileSystems, "get_filesystem", missing)

    with pytest.raises(UserError, match=rf"pip install -e '\.\[{extra}\]'"):
        filesystem.check_reachable(f"{scheme}://bucket/data")

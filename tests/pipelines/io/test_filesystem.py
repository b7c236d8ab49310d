"""Outputs that are whole or recognisably not, on any Beam filesystem."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.io import filesystem
from tfrs_twotower.schema import UsageError

ROOT = Path(__file__).parents[3]


def test_a_file_appears_when_it_is_whole(tmp_path):
    path, staging = tmp_path / "out" / "file", tmp_path / "staging"

    with filesystem.create(str(path), str(staging)) as file:
        file.write(b"all of it")
        assert not path.exists()

    assert path.read_bytes() == b"all of it"


def test_a_file_whose_writer_fails_never_appears(tmp_path):
    path, staging = tmp_path / "file", tmp_path / "staging"

    def write():
        with filesystem.create(str(path), str(staging)) as file:
            file.write(b"half")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write()

    assert not path.exists()
    assert list((staging / "writing").iterdir()) == []


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"an older and longer text")

    filesystem.write_bytes(str(path), b"new", str(tmp_path / "staging"))

    assert path.read_bytes() == b"new"


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with (
        pytest.raises(UsageError, match="not empty and not ours"),
        filesystem.output_folder(str(tmp_path), overwrite=True),
    ):
        pass

    assert (tmp_path / "thesis.txt").exists()


def test_a_finished_folder_has_neither_marker_nor_staging(tmp_path):
    folder = tmp_path / "out"

    with filesystem.output_folder(str(folder), overwrite=False) as staging:
        filesystem.write_bytes(filesystem.join(staging, "x"), b"", staging)
        filesystem.write_manifest(str(folder), {"kind": "prepared"}, staging)

    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_leftovers_of_a_broken_run_are_cleared(tmp_path):
    folder = tmp_path / "out"

    def fail():
        with filesystem.output_folder(str(folder), overwrite=False) as staging:
            filesystem.write_bytes(str(folder / "shard"), b"", staging)
            raise RuntimeError("worker")

    with pytest.raises(RuntimeError, match="worker"):
        fail()

    with filesystem.output_folder(str(folder), overwrite=False) as staging:
        assert not (folder / "shard").exists()
        filesystem.write_manifest(str(folder), {}, staging)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["catalogue.arrow", "partitions", "candidate_counts.arrow"])
def test_a_killed_job_leaves_no_manifest_and_the_next_one_succeeds(world, stage):
    rows = "".join(f"u{n % 997},i{n % 101},{n}\n" for n in range(300_000))
    world.write("interactions.csv", "user_id,item_id,t\n" + rows)
    config = "columns: {timestamp: t}\n"
    world.write("twotower.yaml", config)
    command = [
        sys.executable, "-m", "pipelines.prepare", "--config", world.dataset / "twotower.yaml",
        "--dataset", world.dataset, "--output", world.output,
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    reached = world.output / ".staging" / stage
    end = time.monotonic() + 60
    while not reached.exists():
        assert time.monotonic() < end, "the stage was never reached"
        assert process.poll() is None, "the job ended before the stage"
        time.sleep(0.005)

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert not (world.output / "manifest.json").exists()
    assert (world.output / ".twotower-incomplete").exists()
    assert world.prepare(config)["counts"]["read"] == 300_000

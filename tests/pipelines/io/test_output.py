"""Output folders that hold one whole run, whatever else was written into them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.io import filesystem
from pipelines.io.output import Run, clean, leftovers, output_run
from tfrs_twotower.schema import UsageError, UserError

ROOT = Path(__file__).parents[3]


def write(run, stem, text, rows=1):
    path = run.new_path(stem, ".txt")
    with filesystem.create(path) as file:
        file.write(text.encode())
    return run.written(path, file, rows)


def contents(folder):
    """What a reader of an output folder reads."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        name: [(folder / file["path"]).read_text() for file in files]
        for name, files in manifest["files"].items()
    }


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def publish(folder, texts, overwrite=True):
    with output_run(str(folder), overwrite=overwrite) as run:
        files = [write(run, f"x-{number}", text) for number, text in enumerate(texts)]
        run.publish({"kind": "letters"}, {"x": files}, overwrite=overwrite)
    return run


def test_a_finished_folder_holds_the_manifest_and_the_files_it_names(tmp_path):
    with output_run(str(tmp_path / "out"), overwrite=False) as run:
        filesystem.write_bytes(run.staged_path("left", ".arrow"), b"x")
        write(run, "part-0", "of an attempt that failed")
        file = write(run, "part-0", "whole", rows=7)
        run.publish({"kind": "letters"}, {"part": [file]}, overwrite=False)

    assert contents(tmp_path / "out") == {"part": ["whole"]}
    assert names(tmp_path / "out") == sorted(["manifest.json", file.path])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    [named] = manifest["files"]["part"]
    assert (manifest["kind"], named["rows"], named["bytes"]) == ("letters", 7, 5)


def test_a_run_of_fewer_files_replaces_one_of_more(tmp_path):
    publish(tmp_path, "abcdefgh")

    publish(tmp_path, "123")

    assert contents(tmp_path) == {"x": ["1", "2", "3"]}
    assert len(names(tmp_path)) == 4


def test_of_two_runs_at_once_the_last_manifest_holds_whole(tmp_path):
    with output_run(str(tmp_path), overwrite=True) as first:
        files = [write(first, "x", text) for text in "abc"]
        publish(tmp_path, "12")
        # The run that is still at work was not touched by the one that ended.
        assert contents(tmp_path) == {"x": ["1", "2"]}
        first.publish({}, {"x": files}, overwrite=True)

    assert sorted(contents(tmp_path)["x"]) == ["a", "b", "c"]
    assert len(names(tmp_path)) == 4


def test_a_run_that_may_not_overwrite_gives_way_to_one_that_ended_meanwhile(tmp_path):
    def come_second():
        with output_run(str(tmp_path), overwrite=False) as run:
            file = write(run, "x", "late")
            publish(tmp_path, "12", overwrite=False)
            run.publish({}, {"x": [file]}, overwrite=False)

    with pytest.raises(UsageError, match="finished by another run meanwhile"):
        come_second()

    assert contents(tmp_path) == {"x": ["1", "2"]}
    assert len(names(tmp_path)) == 3


def test_what_an_orphan_writes_does_not_show_and_is_named_and_removed(tmp_path):
    orphan = Run(str(tmp_path), "run-" + "0" * 32)
    write(orphan, "x", "before")
    publish(tmp_path, "12")
    write(orphan, "x", "after")

    assert contents(tmp_path) == {"x": ["1", "2"]}
    found = leftovers(str(tmp_path))
    assert sorted(Path(path).read_text() for path, _ in found) == ["after", "before"]
    assert clean(str(tmp_path)) == found
    assert len(names(tmp_path)) == 3


def test_a_run_whose_files_are_gone_is_not_published(tmp_path):
    publish(tmp_path, "12")

    def clean_meanwhile():
        with output_run(str(tmp_path), overwrite=True) as run:
            file = write(run, "x", "new")
            clean(str(tmp_path))
            run.publish({}, {"x": [file]}, overwrite=True)

    with pytest.raises(UserError, match="is gone or not as it was written"):
        clean_meanwhile()

    assert contents(tmp_path) == {"x": ["1", "2"]}


def test_a_run_that_fails_leaves_what_it_rejected_and_nothing_else(tmp_path):
    def fail():
        with output_run(str(tmp_path), overwrite=False) as run:
            write(run, "shard", "x")
            write(run, "rejected/log.csv", "bad")
            raise RuntimeError("worker")

    with pytest.raises(RuntimeError, match="worker"):
        fail()

    [left] = names(tmp_path)
    assert "rejected/log.csv" in left
    publish(tmp_path, "1", overwrite=False)
    assert contents(tmp_path) == {"x": ["1"]}


def test_an_interrupt_after_the_manifest_leaves_what_it_names(tmp_path):
    def interrupted():
        with output_run(str(tmp_path), overwrite=False) as run:
            run.publish({"kind": "letters"}, {"x": [write(run, "x", "whole")]}, overwrite=False)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert contents(tmp_path) == {"x": ["whole"]}


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with (
        pytest.raises(UsageError, match="not empty and no output of twotower"),
        output_run(str(tmp_path), overwrite=True),
    ):
        pass

    assert names(tmp_path) == ["thesis.txt"]


def test_a_folder_of_before_runs_had_folders_is_replaced_whole(tmp_path):
    for name in ("manifest.json", "examples/train-00000.gz", "statistics.json"):
        filesystem.write_bytes(str(tmp_path / name), b"{}")

    run = publish(tmp_path, "1")

    assert {name.split("/")[0] for name in names(tmp_path)} == {"manifest.json", run.name}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["catalogue-*", "partitions/*", "candidate_counts-*"])
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
    end = time.monotonic() + 120
    while not list(world.output.glob(f"run-*/staging/{stage}")):
        assert time.monotonic() < end, "the stage was never reached"
        assert process.poll() is None, "the job ended before the stage"
        time.sleep(0.005)

    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    assert not (world.output / "manifest.json").exists()
    assert world.prepare(config)["counts"]["read"] == 300_000
    assert leftovers(str(world.output))
    done = subprocess.run(
        [*command[:3], "--clean", "--output", world.output],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert leftovers(str(world.output)) == []

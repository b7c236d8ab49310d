"""The same job gives the same folder on every runner, and however the data are cut."""

import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer

from pipelines.prepare import dataset_files
from pipelines.prepare import pipeline as job
from tests.pipelines.reference import (
    files_of,
    read_bytes_of_records,
    read_rows,
    read_statistics,
)

# Keys of the manifest that differ from run to run.
OF_A_RUN = ("run", "files")
ROOT = Path(__file__).parents[3]
JOB_TIMEOUT_S = 600
CONFIG = """
columns: {timestamp: t, value: stars}
labels: {positive_from: 3}
filters: {duplicates: last, min_per_query: 9, min_per_candidate: 20, k_core: true}
features:
  query: {user_id: {kind: id}, age: {kind: number}, history: {kind: history, length: 5}}
  context:
    device: {kind: categorical}
    dwell: {kind: number}
    idle: {kind: number, aggregate: {what: recency}}
    mood: {kind: number, aggregate: {what: mean, days: 1}}
  candidate:
    item_id: {kind: id}
    genre: {kind: categorical}
    plays: {kind: number, aggregate: {what: count, days: 1}}
    rated: {kind: number, aggregate: {what: mean}}
"""


@pytest.fixture
def small_world(world):
    chance = random.Random(5)
    header = "user_id,item_id,t,stars,device,dwell"
    lines = [
        f"u{chance.randrange(60)},i{chance.randrange(40)},{chance.randrange(5000)},"
        f"{chance.randrange(1, 6)},{chance.choice(['tv', 'web', ''])},{chance.random():.3f}"
        for _ in range(3000)
    ]
    lines[::700] = ["broken"] * len(lines[::700])
    world.write("interactions.csv", "\n".join([header, *lines]))
    world.write_json_lines(
        "candidates.jsonl", [{"item_id": f"i{n}", "genre": f"g{n % 7}"} for n in range(41)]
    )
    world.write_json_lines("queries.jsonl", [{"user_id": f"u{n}", "age": n} for n in range(61)])
    return world


def contents(folder):
    """All that a prepared folder says, whatever its shards."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return {
        "examples": {
            split: read_bytes_of_records(folder, f"examples/{split}")
            for split in ("train", "validation", "test")
        },
        "sequences": read_bytes_of_records(folder, "sequences/train"),
        "candidates": read_bytes_of_records(folder, "candidates"),
        **{
            name: sorted(map(repr, read_rows(folder, name)))
            for name in ("queries", "known_positives", "candidate_attributes")
        },
        "vocabularies": {p.name: p.read_bytes() for p in files_of(folder, "vocabularies")},
        "statistics": read_statistics(folder),
        "rejected": {
            p.name.rpartition("-")[0]: p.read_bytes() for p in files_of(folder, "rejected")
        },
        "manifest.json": json.dumps({n: manifest[n] for n in manifest if n not in OF_A_RUN}),
    }


@pytest.mark.parametrize("num_partitions", [1, 3])
@pytest.mark.slow
def test_the_cut_into_chunks_and_partitions_does_not_show(small_world, monkeypatch, num_partitions):
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)
    monkeypatch.setattr(dataset_files, "MIN_CHUNK_BYTES", 10_000)
    monkeypatch.setattr(job, "MIN_PARTITIONS", num_partitions)

    small_world.prepare(CONFIG, overwrite=True)

    assert contents(small_world.output) == expected


@pytest.mark.slow
def test_buckets_ranges_and_large_text_do_not_show(small_world, monkeypatch):
    (small_world.dataset / "candidates.jsonl").unlink()
    config = CONFIG.replace("    genre: {kind: categorical}\n", "")
    small_world.prepare(config)
    expected = contents(small_world.output)
    # As if an array could hold no more than ten bytes of text.
    monkeypatch.setattr("pipelines.io.tables.MAX_TEXT_BYTES", 10)
    monkeypatch.setattr("pipelines.io.sums.TABLES_A_TIME", 2)
    monkeypatch.setattr("pipelines.prepare.job.PARTITIONS_A_BUCKET", 3)
    monkeypatch.setattr("pipelines.prepare.query_rows.MAX_RANGES", 5)

    small_world.prepare(config, overwrite=True)

    assert contents(small_world.output) == expected


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_processing", "multi_threading"])
def test_two_workers_write_what_one_writes(small_world, mode):
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)

    small_world.prepare(
        CONFIG,
        overwrite=True,
        beam_args=["--direct_num_workers=2", f"--direct_running_mode={mode}"],
    )

    assert contents(small_world.output) == expected


def largest_group(monkeypatch, run):
    """Runs a job; gives the bytes of the largest group, which some runners hold as one record."""
    sizes, buffers, append = Counter(), [], GroupingBuffer.append

    def measure(buffer, data):
        buffers.append(buffer)
        stream, coder = create_InputStream(data), buffer._pre_grouped_coder.get_impl()
        while left := stream.size():
            key, _ = coder.decode_from_stream(stream, True).value
            sizes[id(buffer), str(key)] += left - stream.size()
        append(buffer, data)

    with monkeypatch.context() as patch:
        patch.setattr(GroupingBuffer, "append", measure)
        run()
    return max(sizes.values())


@pytest.mark.slow
def test_more_partitions_make_every_group_smaller(world, monkeypatch):
    chance = random.Random(7)
    lines = [
        f"u{chance.randrange(900)},i{chance.randrange(3000)},{chance.randrange(90 * 86400)},3"
        for _ in range(6000)
    ]
    world.write("interactions.csv", "\n".join(["user_id,item_id,t,stars", *lines]))
    config = (
        "columns: {timestamp: t}\n"
        "features: {query: {user_id: {kind: id}}, context: {stars: {kind: categorical}}, "
        "candidate: {item_id: {kind: id}, plays: {kind: number, aggregate: {what: count}}}}"
    )
    monkeypatch.setattr("pipelines.prepare.job.PARTITIONS_A_BUCKET", 1)
    largest = []
    for num_partitions in (2, 16):
        monkeypatch.setattr(job, "MIN_PARTITIONS", num_partitions)
        run = functools.partial(world.prepare, config, overwrite=True)
        largest.append(largest_group(monkeypatch, run))

    assert largest[1] < largest[0] / 3


@pytest.fixture
def job_service():
    """Beam's portable job service and a worker pool, in processes of their own."""
    ports = [_free_port(), _free_port()]
    commands = [
        ["apache_beam.runners.portability.local_job_service_main", f"--port={ports[0]}"],
        ["apache_beam.runners.worker.worker_pool_main", f"--service_port={ports[1]}"],
    ]
    # The pool starts whatever `python` is first in the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    for port in ports:
        _wait_for(port)
    yield [
        "--runner=PortableRunner",
        f"--job_endpoint=localhost:{ports[0]}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{ports[1]}",
    ]
    for process in processes:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_portable_runner_writes_what_the_in_process_one_writes(small_world, job_service):
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)

    small_world.prepare(CONFIG, overwrite=True, beam_args=job_service)

    assert contents(small_world.output) == expected


@contextmanager
def flink(*cluster):
    """Beam's job server and Flink, in processes of their own: the port, and what is printed."""
    script = ROOT / "pipelines" / "flink.sh"
    if missing := [name for name in ("java", "mvn") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)}: Flink cannot run")
    try:
        subprocess.run([script, "fetch"], capture_output=True, timeout=180, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("the jars of Flink cannot be fetched from Maven Central")
    port = _free_port()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [script, str(port), *cluster],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            _wait_for(port)
            yield port, process.stdout
        finally:
            process.terminate()


def prepare_on_flink(world, port, *workers):
    """Prepares anew; gives what is told on stderr.

    In a process of its own: nothing but its end tells of a job that hangs.
    """
    (world.dataset / "twotower.yaml").write_text(CONFIG)
    folders = ["--dataset", world.dataset, "--output", world.output, "--overwrite"]
    runner = ["--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{port}", "--parallelism=2"]
    command = [sys.executable, "-m", "pipelines.prepare", "--config"]
    done = subprocess.run(
        [*command, world.dataset / "twotower.yaml", *folders, *runner, *workers],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=JOB_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_flink_writes_what_the_in_process_runner_writes(small_world):
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)

    with flink() as (port, _):
        told = prepare_on_flink(small_world, port, "--environment_type=LOOPBACK")

    assert "Traceback" not in told
    assert contents(small_world.output) == expected


@pytest.mark.slow
def test_a_flink_cluster_that_loses_a_task_manager_writes_the_same(small_world, tmp_path):
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)
    # TaskManagers of one machine would share a pool's workers, which it knows by number alone.
    worker = tmp_path / "worker"
    worker.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.pipelines.sdk_worker "$@"\n')
    worker.chmod(0o755)
    environment = f"--environment_config={json.dumps({'command': str(worker)})}"

    with flink("3") as (port, printed):
        processes = [next(printed).split(": ") for _ in range(4)]
        cluster = _Cluster(port + 1)
        _wait_until(lambda: cluster.get("overview")["taskmanagers"] == 3, 60)
        killing = ThreadPoolExecutor().submit(cluster.kill_amid_a_job, int(processes[1][1]))
        # A worker starts in seconds, and lives for one stage unless it is kept.
        workers = ["--environment_type=PROCESS", environment, "--environment_cache_millis=60000"]
        prepare_on_flink(small_world, port, *workers)
        num_finished = killing.result()
        _wait_until(lambda: cluster.get("overview")["taskmanagers"] == 2, 60)

    assert [name for name, _ in processes] == ["JobManager", *["TaskManager"] * 3]
    assert num_finished > 0
    assert contents(small_world.output) == expected


class _Cluster:
    """A Flink session cluster, by its REST interface."""

    def __init__(self, port):
        self._address = f"http://127.0.0.1:{port}/"

    def get(self, path):
        with urllib.request.urlopen(self._address + path, timeout=10) as answer:
            return json.load(answer)

    def tasks(self):
        """How many tasks there are in each state."""
        jobs = self.get("jobs/overview")["jobs"]
        return jobs[0]["tasks"] if jobs else {"finished": 0, "total": 0}

    def kill_amid_a_job(self, process_id):
        """Kills a process when a quarter of the tasks are done; gives how many those were."""
        _wait_until(lambda: 4 * self.tasks()["finished"] > self.tasks()["total"] > 0, 300)
        found = self.tasks()
        assert found["finished"] < found["total"]
        os.kill(process_id, signal.SIGKILL)
        return found["finished"]


def _wait_until(is_so, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            if is_so():
                return
        time.sleep(0.2)
    raise TimeoutError


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")

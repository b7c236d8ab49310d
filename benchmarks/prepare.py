"""How fast training data are prepared, beside the two ways everybody writes first.

A generated log of 2 million rows (`--quick`: 800,000), six features and 20-long histories, in one
run, alternating: (a) `pipelines.prepare`, (b) a compact per-element Beam pipeline, (c) a pandas and
`tf.train.Example` script. All three read the CSV, number users and items, write the same features
of the same examples as gzip TFRecords. Imports are not counted. (a) also runs alone on the large
log (10 million rows) in a process of its own, for its time and memory a row. What goes through its
shuffles is measured in one more run: on a distributed runner these bytes are a part of the bill.

`--project` measures the parts of a projection instead: 10 billion events on Dataflow. `--scale`
measures what a worker of Flink holds of 2 million rows, 10 million and so on, up to so many.
"""

import itertools
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from _harness import ROOT, Measurement, alternate, benchmark
from _projection import EVENTS, ITEMS, USERS, cut_a_chunk, fill_a_table, in_a_process, on_dataflow
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer

from pipelines.prepare import prepare
from pipelines.prepare.dataset_files import MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from pipelines.prepare.pipeline import MIN_PARTITIONS, PARTITION_BYTES
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import parse_config

OURS = "pipelines.prepare"
LENGTH = 20
ROWS = 2_000_000
NUM_ITEMS = 20_000
EVENTS_A_USER = 50
CONFIG = f"""
columns: {{query_id: user_id, candidate_id: item_id, timestamp: timestamp}}
features:
  query:
    user_id: {{kind: id}}
    history: {{kind: history, length: {LENGTH}}}
  context:
    device: {{kind: categorical}}
    page: {{kind: categorical}}
    dwell: {{kind: number}}
    moment: {{kind: timestamp}}
  candidate:
    item_id: {{kind: id}}
    genre: {{kind: categorical}}
"""


def make_log(
    folder: Path, num_rows: int, num_users: int | None = None, num_items: int = NUM_ITEMS
) -> Path:
    """A dataset folder with a log of so many rows."""
    folder = folder / f"log-{num_rows}"
    if folder.exists():
        return folder
    folder.mkdir()
    chance = np.random.default_rng(0)
    popularity = 1 / np.arange(1, num_items + 1) ** 0.8
    users = np.array([f"u{n}" for n in range(num_users or num_rows // EVENTS_A_USER)])
    items = np.array([f"i{n}" for n in range(num_items)])
    devices = np.array(["tv", "phone", "web", "tablet"])
    pages = np.array([f"p{n}" for n in range(300)])

    def events(size: int) -> pa.Table:
        return pa.table(
            {
                "user_id": chance.choice(users, size),
                "item_id": chance.choice(items, size, p=popularity / popularity.sum()),
                "timestamp": 1_600_000_000 + chance.integers(0, 90 * 86400, size),
                "device": chance.choice(devices, size),
                "page": chance.choice(pages, size),
                "dwell": np.round(chance.random(size) * 100, 2),
            }
        )

    plain = pyarrow.csv.WriteOptions(quoting_style="none")
    path, first = folder / "interactions.csv", events(min(ROWS, num_rows))
    with pyarrow.csv.CSVWriter(path, first.schema, write_options=plain) as log:
        log.write(first)
        for start in range(ROWS, num_rows, ROWS):
            log.write(events(min(ROWS, num_rows - start)))
    genres = pa.table({"item_id": items, "genre": [f"g{n % 17}" for n in range(num_items)]})
    pyarrow.csv.write_csv(genres, folder / "candidates.csv", plain)
    return folder


def run_job(dataset: Path, output: Path, *beam_args: str) -> None:
    prepare(parse_config(CONFIG, "benchmark"), str(dataset), str(output), beam_args=beam_args)


def make_example(row: dict[str, object]) -> bytes:
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], float):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def moment_of(second: int) -> list[int]:
    return [1 + second // 3600 % 24, 1 + (second // 86400 + 3) % 7]


def ranked(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    ordered = sorted(counts, key=lambda pair: (-pair[1], pair[0]))
    return {token: row + 2 for row, (token, _) in enumerate(ordered)}


def run_per_element(dataset: Path, output: Path) -> None:
    """A Beam pipeline as in the tutorials: an element a row."""

    def parse(line: str) -> dict[str, object]:
        user, item, second, device, page, dwell = line.split(",")
        return {
            "user": user, "item": item, "second": int(second), "device": device, "page": page,
            "dwell": float(dwell),
        }  # fmt: skip

    def with_history(
        keyed: tuple[str, Iterable[dict[str, object]]],
    ) -> Iterator[tuple[dict[str, object], list[object]]]:
        events = sorted(keyed[1], key=lambda event: (event["second"], event["item"]))
        for place, event in enumerate(events):
            yield event, [e["item"] for e in events[max(0, place - LENGTH) : place]]

    def encode(
        element: tuple[dict[str, object], list[object]],
        cutoffs: tuple[int, int],
        users: dict[str, int],
        items: dict[str, int],
        devices: dict[str, int],
        pages: dict[str, int],
    ) -> Iterator[Any]:
        event, past = element
        second = event["second"]
        rows = [items.get(item, 1) for item in past]
        record = {
            "query_row": users.get(event["user"], 1), "candidate_row": items.get(event["item"], 1),
            "timestamp_s": second, "label": 1, "weight": 1.0,
            "user_id": users.get(event["user"], 1), "history": rows + [0] * (LENGTH - len(rows)),
            "device": devices.get(event["device"], 1), "page": pages.get(event["page"], 1),
            "dwell": event["dwell"], "moment": moment_of(second),
        }  # fmt: skip
        split = "train" if second < cutoffs[0] else "validation"
        split = "test" if second >= cutoffs[1] else split
        yield beam.pvalue.TaggedOutput(split, make_example(record))

    def cut(times: list[int]) -> tuple[int, int]:
        times = sorted(times)
        return times[int(0.8 * len(times))], times[int(0.9 * len(times))]

    options = PipelineOptions(["--runner=FnApiRunner"])
    with beam.Pipeline(options=options) as pipeline:
        events = (
            pipeline
            | beam.io.ReadFromText(str(dataset / "interactions.csv"), skip_header_lines=1)
            | beam.Map(parse)
        )
        times = events | beam.Map(lambda event: event["second"]) | beam.combiners.ToList()
        cutoffs = beam.pvalue.AsSingleton(times | beam.Map(cut))
        vocabularies = {
            name: beam.pvalue.AsSingleton(
                events
                | f"Filter{name}" >> beam.Filter(lambda e, c: e["second"] < c[0], cutoffs)
                | f"Token{name}" >> beam.Map(lambda event, name=name: event[name])
                | f"Count{name}" >> beam.combiners.Count.PerElement()
                | f"List{name}" >> beam.combiners.ToList()
                | f"Rank{name}" >> beam.Map(ranked)
            )
            for name in ("user", "item", "device", "page")
        }
        outputs = (
            events
            | beam.Map(lambda event: (event["user"], event))
            | beam.GroupByKey()
            | beam.FlatMap(with_history)
            | beam.FlatMap(encode, cutoffs, *vocabularies.values()).with_outputs()
        )
        for split in ("train", "validation", "test"):
            _ = outputs[split] | f"Write{split}" >> beam.io.WriteToTFRecord(
                str(output / split), file_name_suffix=".tfrecord.gz"
            )


def run_pandas(dataset: Path, output: Path) -> None:
    """A script as in the notebooks: pandas, then an Example a row."""
    log = pd.read_csv(dataset / "interactions.csv")
    log = log.sort_values(["user_id", "timestamp", "item_id"], ignore_index=True)
    times = np.sort(log["timestamp"].to_numpy())
    first, last = times[int(0.8 * len(log))], times[int(0.9 * len(log))]
    train = log[log["timestamp"] < first]
    rows = {
        name: log[name].map(ranked(Counter(train[name]).items())).fillna(1).astype(int).tolist()
        for name in ("user_id", "item_id", "device", "page")
    }
    users, items = rows["user_id"], rows["item_id"]
    seconds, dwell = log["timestamp"].tolist(), log["dwell"].tolist()
    output.mkdir()
    writers = {
        split: tf.io.TFRecordWriter(str(output / f"{split}.tfrecord.gz"), "GZIP")
        for split in ("train", "validation", "test")
    }
    start = 0
    for place in range(len(log)):
        if place and users[place] != users[place - 1]:
            start = place
        past = items[max(start, place - LENGTH) : place]
        second = seconds[place]
        record = {
            "query_row": users[place], "candidate_row": items[place], "timestamp_s": second,
            "label": 1, "weight": 1.0, "user_id": users[place],
            "history": past + [0] * (LENGTH - len(past)), "device": rows["device"][place],
            "page": rows["page"][place], "dwell": dwell[place], "moment": moment_of(second),
        }  # fmt: skip
        split = "train" if second < first else "validation" if second < last else "test"
        writers[split].write(make_example(record))
    for writer in writers.values():
        writer.close()


def run_alone(
    dataset: Path, output: Path, min_partitions: int = MIN_PARTITIONS
) -> dict[str, float]:
    """The job in a fresh process: its seconds, its processor time and its peak memory in bytes."""
    return in_a_process(
        "from pipelines.prepare import pipeline\n"
        "from prepare import run_job\n"
        f"pipeline.MIN_PARTITIONS = {min_partitions}\n"
        "start, processor = time.perf_counter(), time.process_time()\n"
        "run_job(*map(Path, sys.argv[1:]))\n"
        "found = {\n"
        "    'seconds': time.perf_counter() - start,\n"
        "    'processor_s': time.process_time() - processor,\n"
        "    'peak_bytes': peak(),\n"
        "}\n",
        str(dataset),
        str(output),
    )


def peak_of_a_worker(dataset: Path, output: Path, num_tasks: int) -> int:
    """Peak memory in bytes of the only worker of a Flink, which has one task after the other."""
    with flink() as port:
        return in_a_process(
            "from pipelines.prepare import pipeline\n"
            "from prepare import run_job\n"
            "from pipelines.allocation import share_a_heap\n"
            "share_a_heap()\n"
            "pipeline.MIN_PARTITIONS = 1\n"
            "runner = ['--runner=PortableRunner', '--environment_type=LOOPBACK']\n"
            f"flink = ['--job_endpoint=127.0.0.1:{port}', '--parallelism={num_tasks}']\n"
            "run_job(*map(Path, sys.argv[1:]), *runner, *flink)\n"
            "found = peak()\n",
            str(dataset),
            str(output),
        )


@contextmanager
def flink() -> Iterator[int]:
    """Runs Flink with Beam's job server until the block ends; gives the port of that server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = ROOT / "pipelines" / "flink.sh"
    subprocess.run([script, "fetch"], check=True)
    with subprocess.Popen(
        [script, str(port), "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while server.poll() is None:
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                time.sleep(0.1)
            yield port
        finally:
            server.terminate()


def run_measured(dataset: Path, output: Path) -> tuple[int, int]:
    """Runs the job; returns the bytes of all elements that are grouped, and of the largest one."""
    total = largest = 0
    append = GroupingBuffer.append

    def measure(buffer: GroupingBuffer, data: bytes) -> None:
        nonlocal total, largest
        total += len(data)
        stream, coder = create_InputStream(data), buffer._pre_grouped_coder.get_impl()
        while left := stream.size():
            coder.decode_from_stream(stream, True)
            largest = max(largest, left - stream.size())
        append(buffer, data)

    with mock.patch.object(GroupingBuffer, "append", measure):
        run_job(dataset, output)
    return total, largest


def projection(folder: Path) -> list[Measurement]:
    """The job at 10 billion events, from two logs as dense as that one."""
    config = parse_config(CONFIG, "benchmark")

    def log(num_rows: int) -> Path:
        return make_log(folder, num_rows, num_rows * USERS // EVENTS, num_rows * ITEMS // EVENTS)

    probe = 500_000
    text_bytes = (log(probe) / "interactions.csv").stat().st_size / probe
    # A little less text than a partition holds.
    num_rows = int(0.98 * PARTITION_BYTES / text_bytes)
    small, large = (
        run_alone(log(size), folder / f"alone-{size}", min_partitions=1)
        for size in (num_rows, 3 * num_rows)
    )
    shuffled, largest_element = run_measured(log(num_rows), folder / "measured")
    measured = cut_a_chunk(
        config, int(MIN_CHUNK_BYTES / text_bytes), num_rows * USERS // EVENTS, MIN_PARTITIONS
    )
    projected = cut_a_chunk(
        config,
        int(MAX_CHUNK_BYTES / text_bytes),
        USERS,
        int(EVENTS * text_bytes / PARTITION_BYTES),
    )
    return on_dataflow(
        processor_s=(large["processor_s"] - small["processor_s"]) / (2 * num_rows),
        shuffled=shuffled / num_rows,
        largest_element=largest_element,
        process_bytes=small["peak_bytes"],
        smaller_pieces=(projected[0] - measured[0], projected[1] - measured[1]),
        token=fill_a_table(folder),
    )


@benchmark(
    code=["pipelines/prepare", "pipelines/io", "tfrs_twotower/features"],
    flags={"project": "project 10 billion events on Dataflow from what is measured here"},
    numbers={
        "scale": "measure what a worker of Flink holds of 2 million rows, 10 million and so on, "
        "up to so many"
    },
)
def main(quick: bool, project: bool, scale: float) -> list[Measurement]:
    if project or scale:
        with tempfile.TemporaryDirectory() as path:
            return projection(Path(path)) if project else memory(Path(path), int(scale))
    num_rows, rounds = (800_000, 1) if quick else (ROWS, 2)
    contestants = {
        OURS: run_job,
        "per-element Beam": run_per_element,
        "pandas and tf.train.Example": run_pandas,
    }
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        dataset = make_log(folder, num_rows)
        number = itertools.count()
        seconds = alternate(
            {
                name: lambda run=run: run(dataset, folder / f"output-{next(number)}")
                for name, run in contestants.items()
            },
            rounds,
            warm_up=0,
        )
        rates = {name: num_rows / statistics.median(times) for name, times in seconds.items()}
        ours = rates.pop(OURS)
        found = [
            Measurement(f"{OURS}, {num_rows:,} rows", ours, "rows/s", name, rate)
            for name, rate in rates.items()
        ]
        total, largest = run_measured(dataset, folder / "measured")
        found += [
            Measurement(f"{OURS}, shuffled", total / num_rows, "bytes a row"),
            Measurement(f"{OURS}, largest element", largest / 1e6, "MB"),
        ]
        return found if quick else found + growth(folder, num_rows)


def memory(folder: Path, num_rows: int) -> list[Measurement]:
    """What a worker holds of a small log, and of ones five times as large each up to a size.

    A task has two million rows of each.
    """
    found: list[Measurement] = []
    size = ROWS
    while size <= num_rows:
        dataset, output = make_log(folder, size), folder / f"worker-{size}"
        held = peak_of_a_worker(dataset, output, num_tasks=size // ROWS) / 1e9
        name, first = f"a worker, {size:,} rows", found[0] if found else None
        beside = () if first is None else (first.name, first.value, first.value / held)
        found.append(Measurement(name, held, "GB at the peak", *beside))
        shutil.rmtree(dataset)
        shutil.rmtree(output)
        size *= 5
    return found


def growth(folder: Path, num_rows: int) -> list[Measurement]:
    """Time and memory a row on the log and on a five times larger one, each in its own process."""
    alone = {
        size: run_alone(make_log(folder, size), folder / f"alone-{size}")
        for size in (num_rows, 5 * num_rows)
    }
    small, large = (run["seconds"] / size * 1e6 for size, run in alone.items())
    peak = alone[5 * num_rows]["peak_bytes"]
    name = f"{OURS} alone, {5 * num_rows:,} rows"
    return [
        Measurement(name, large, "µs a row", f"{num_rows:,} rows", ratio=small / large),
        Measurement(name, peak / 1e9, "GB at the peak"),
        Measurement(name, peak / (5 * num_rows), "bytes a row at the peak"),
    ]


if __name__ == "__main__":
    main()

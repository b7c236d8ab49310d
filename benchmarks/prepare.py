"""How fast training data are prepared, beside the two ways everybody writes first.

A generated log of 2 million rows (`--quick`: 800,000), six features and 20-long histories, in one
run, alternating: (a) `pipelines.prepare`, (b) a compact per-element Beam pipeline, (c) a pandas and
`tf.train.Example` script. All three read the CSV, number users and items, write the same features
of the same examples as gzip TFRecords. Imports are not counted. (a) also runs alone on the large
log (10 million rows) in a process of its own, for its time and memory a row. What goes through its
shuffles is measured in one more run: on a distributed runner these bytes are most of the bill.
"""

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from _harness import Measurement, alternate, benchmark
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer

from pipelines.prepare import prepare
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import parse_config

OURS = "pipelines.prepare"
LENGTH = 20
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


def make_log(folder: Path, num_rows: int) -> Path:
    """A dataset folder with a log of so many rows."""
    folder = folder / f"log-{num_rows}"
    if folder.exists():
        return folder
    folder.mkdir()
    chance = np.random.default_rng(0)
    popularity = 1 / np.arange(1, NUM_ITEMS + 1) ** 0.8
    users = np.array([f"u{n}" for n in range(num_rows // EVENTS_A_USER)])
    items = np.array([f"i{n}" for n in range(NUM_ITEMS)])
    pages = np.array([f"p{n}" for n in range(300)])
    log = pa.table(
        {
            "user_id": chance.choice(users, num_rows),
            "item_id": chance.choice(items, num_rows, p=popularity / popularity.sum()),
            "timestamp": 1_600_000_000 + chance.integers(0, 90 * 86400, num_rows),
            "device": chance.choice(np.array(["tv", "phone", "web", "tablet"]), num_rows),
            "page": chance.choice(pages, num_rows),
            "dwell": np.round(chance.random(num_rows) * 100, 2),
        }
    )
    plain = pyarrow.csv.WriteOptions(quoting_style="none")
    pyarrow.csv.write_csv(log, folder / "interactions.csv", plain)
    genres = pa.table({"item_id": items, "genre": [f"g{n % 17}" for n in range(NUM_ITEMS)]})
    pyarrow.csv.write_csv(genres, folder / "candidates.csv", plain)
    return folder


def run_job(dataset: Path, output: Path) -> None:
    prepare(parse_config(CONFIG, "benchmark"), str(dataset), str(output))


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


def run_alone(dataset: Path, output: Path) -> dict[str, float]:
    """The job in a fresh process: its seconds and its peak memory in bytes."""
    script = (
        "import json, resource, sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from prepare import run_job\n"
        "from pathlib import Path\n"
        "start = time.perf_counter()\n"
        "run_job(*map(Path, sys.argv[1:]))\n"
        "seconds = time.perf_counter() - start\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(json.dumps({'seconds': seconds, 'peak_bytes': peak}))\n"
    )
    command = [sys.executable, "-c", script, str(dataset), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


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


@benchmark(code=["pipelines/prepare", "pipelines/io", "tfrs_twotower/features"])
def main(quick: bool) -> list[Measurement]:
    num_rows, rounds = (800_000, 1) if quick else (2_000_000, 2)
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

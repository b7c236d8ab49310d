"""Reading a log that has grown by a day, without and with the cache of `twotower prepare`.

MovieLens 1M with a small file for each of its 1,040 days, as gzipped JSON lines, CSV and Parquet.
A job with the cache has read all days but the last. Measured is what the next one does before its
events are checked: find and open the files, look at the first rows, parse. The two take turns.
Beside it the processor time of the whole job, once each, imports included. `--quick`: JSON lines of
a tenth of the days, reading alone.
"""

import io
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
from _harness import Measurement, benchmark
from _processes import whole

from pipelines.io import filesystem
from pipelines.prepare.cache import Cache, batches_of
from pipelines.prepare.dataset_files import cut_file, needed_columns, open_dataset
from pipelines.prepare.head_check import check_heads
from pipelines.prepare.validate import numeric_columns
from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset

ROUNDS, QUICK_ROUNDS = 5, 1
DAY_S = 86_400
WITHOUT, WITH = "without the cache", "with the cache"
MAX_REJECTED_SHARE = 0.01


def write_json_lines(events: pd.DataFrame, path: Path) -> None:
    events.to_json(path, orient="records", lines=True, compression="gzip")


def write_csv(events: pd.DataFrame, path: Path) -> None:
    events.to_csv(path, index=False)


def write_parquet(events: pd.DataFrame, path: Path) -> None:
    events.to_parquet(path, index=False)


# What writes a day, and the end of the file's name.
FORMATS: dict[str, tuple[Callable[[pd.DataFrame, Path], None], str]] = {
    "JSON lines, gzip": (write_json_lines, "jsonl.gz"),
    "CSV": (write_csv, "csv"),
    "Parquet": (write_parquet, "parquet"),
}


class Reading(NamedTuple):
    """What reading a dataset takes: processor seconds, bytes of its files and of the cache."""

    processor_s: float
    log_bytes: int
    cache_bytes: int


class _Counted(io.RawIOBase):
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: Any, count: Callable[[int], None]) -> None:
        super().__init__()
        self._file, self._count = file, count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)
        self._count(size)
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def read(dataset: Path, cache: Path | None) -> Reading:
    """Reads all files as a job does, up to the raw batches of every part."""
    num_bytes = Counter[bool]()
    open_raw = filesystem.open_raw

    def open_counted(path: str) -> io.BufferedReader:
        of_cache = cache is not None and Path(path).is_relative_to(cache)

        def count(size: int) -> None:
            num_bytes[of_cache] += size

        return io.BufferedReader(_Counted(open_raw(path), count))

    config = api.load_config(dataset / "twotower.yaml")
    with mock.patch.object(filesystem, "open_raw", open_counted):
        start = time.process_time()
        kept = Cache(str(cache), str(dataset)) if cache else None
        files = open_dataset(str(dataset), config, kept.cut_file if kept else cut_file)
        check_heads(files, config, MAX_REJECTED_SHARE)
        if kept:
            kept.begin()
        numeric = numeric_columns(config)
        for chunk in files.chunks:
            for _ in batches_of(chunk, needed_columns(config, chunk.kind), numeric):
                pass
        took = time.process_time() - start
        if kept:
            kept.end(files.chunks)
    return Reading(took, num_bytes[False], num_bytes[True])


def write_day(events: pd.DataFrame, day: int, name: str, log: Path) -> None:
    """Writes the events of a day, counted from 1970, into its folder of the log, in a format."""
    write, suffix = FORMATS[name]
    folder = log / "interactions" / f"day={pd.Timestamp(day * DAY_S, unit='s').date()}"
    folder.mkdir(parents=True)
    write(events[events["timestamp"] // DAY_S == day], folder / f"part-0.{suffix}")


def job_seconds(log: Path, output: Path, *options: str) -> float:
    """Processor seconds of a whole job."""
    words = ("--config", log / "twotower.yaml", "--dataset", log, "--output", output)
    return whole("-m", "pipelines.prepare", *map(str, words), *options).processor


def one_format(
    name: str, events: pd.DataFrame, source: Path, folder: Path, *, quick: bool
) -> list[Measurement]:
    """Reads the days of a log in a format, the last one new to the cache."""
    log, of_job = folder / "log", f"--cache={folder / 'cache'}"
    write_dataset("movielens-1m", log, source)
    (log / "interactions.parquet").unlink()
    *earlier, last = np.unique(events["timestamp"] // DAY_S)
    for day in earlier:
        write_day(events, day, name, log)
    caches = [folder / f"cache-{number}" for number in range(QUICK_ROUNDS if quick else ROUNDS)]
    for cache in caches:  # Each is as the job of the day before has left it.
        read(log, cache)
    if not quick:
        job_seconds(log, folder / "prepared-before", of_job)
    write_day(events, last, name, log)
    rounds: dict[str, list[Reading]] = {WITHOUT: [], WITH: []}
    for cache in caches:
        rounds[WITHOUT].append(read(log, None))
        rounds[WITH].append(read(log, cache))
    found = measurements(name, rounds)
    if not quick:
        for how, options in ((WITHOUT, []), (WITH, [of_job])):
            took = job_seconds(log, folder / f"prepared-{how}", *options)
            found.append(Measurement(how, took, f"processor s of the job, {name}"))
    return found


def measurements(name: str, rounds: Mapping[str, list[Reading]]) -> list[Measurement]:
    """The median time of reading a format, and the bytes, which are the same in every round."""
    seconds = {how: statistics.median(one.processor_s for one in of) for how, of in rounds.items()}
    unit = f"processor s of reading, {name}"
    ratio = seconds[WITHOUT] / seconds[WITH]
    found = [
        Measurement(WITH, seconds[WITH], unit, WITHOUT, seconds[WITHOUT], ratio),
        Measurement(WITHOUT, seconds[WITHOUT], unit),
    ]
    for how, [first, *_] in rounds.items():
        found.append(Measurement(how, first.log_bytes / 1e6, f"MB of the log, {name}"))
        found.append(Measurement(how, first.cache_bytes / 1e6, f"MB of the cache, {name}"))
    return found


@benchmark(code=["pipelines/prepare", "pipelines/io"], data="ml-1m")
def main(quick: bool, data: Path) -> list[Measurement]:
    """Reads the log in one format after the other."""
    with tempfile.TemporaryDirectory() as path:
        write_dataset("movielens-1m", Path(path) / "log", data)
        events = pd.read_parquet(Path(path) / "log" / "interactions.parquet")
    days = np.unique(events["timestamp"] // DAY_S)
    if quick:
        events = events[events["timestamp"] // DAY_S < days[len(days) // 10]]
    found = []
    for name in list(FORMATS)[:1] if quick else FORMATS:
        with tempfile.TemporaryDirectory() as path:
            found += one_format(name, events, data, Path(path), quick=quick)
    return found


if __name__ == "__main__":
    main()

"""Data sets to start from: one generated, the public ones from their original files."""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tfrs_twotower.datasets import movielens, ncf, presplit, sample
from tfrs_twotower.schema import Parameter, UsageError
from tfrs_twotower.schema.folders import MANIFEST, claim, output_folder, write_json

Write = Callable[[Path, Path], dict[str, int]]  # folder, source -> counts


class _Public(NamedTuple):
    help: str
    write: Write


_PUBLIC = {
    "movielens-100k": _Public(
        "MovieLens 100K: 943 users, 1,682 films, 100,000 ratings (u.data, u.item, u.user)",
        partial(movielens.write, name="movielens-100k", read=movielens.read_100k),
    ),
    "movielens-1m": _Public(
        "MovieLens 1M: 6,040 users, 3,883 films (ratings.dat, movies.dat, users.dat)",
        partial(movielens.write, name="movielens-1m", read=movielens.read_1m),
    ),
    "ngcf": _Public(
        "Any data set cut as NGCF and LightGCN do, such as gowalla (train.txt, test.txt)",
        presplit.write_ngcf,
    ),
    "sasrec": _Public(
        "A set in SASRec's or S3-Rec's format, a file or folder: `user item ...` by time",
        presplit.write_sasrec,
    ),
    "ncf": _Public(
        "MovieLens 1M with the test of the NCF paper, 99 negatives given (*.test.negative)",
        ncf.write,
    ),
}

DATASETS: dict[str, str] = {
    "sample": "A generated shop for films: 5,000 users, 2,000 items, 200,000 events in 90 days",
    **{name: dataset.help for name, dataset in _PUBLIC.items()},
}


def write_dataset(
    name: str,
    output: Path,
    source: Path | None = None,
    *,
    overwrite: bool = False,
    seed: int = 42,
    drift: bool = False,
) -> dict[str, int]:
    """Writes a dataset folder: interactions, candidates, queries, `twotower.yaml`, a manifest.

    Args:
        name: A key of `DATASETS`.
        output: The folder to write.
        source: Folder of the original files, of `sasrec` also the file; the sample needs none.
        overwrite: Whether a finished folder may be replaced.
        seed: Of the sample; the others have nothing random.
        drift: Whether the sample's tastes move and its items age, for `twotower backtest`.

    Returns:
        What was written, by name: rows of each kind.

    Raises:
        UsageError: If the name is unknown, the source is missing or lacks a file, another data set
            than the sample is to drift, or the output holds something.
    """
    if name not in DATASETS:
        raise UsageError(f"no data set {name!r}: expected one of {', '.join(DATASETS)}")
    if name in _PUBLIC and source is None:
        raise UsageError(
            f"{name} is made from its original files: name their folder with ", Parameter("source")
        )
    if drift and name in _PUBLIC:
        raise UsageError(Parameter("drift", True), f": {name} is as it is, only the sample drifts")
    claim(set(os.listdir(output)) if output.is_dir() else set(), str(output), overwrite=overwrite)
    # What is replaced stays until the source has shown that it can be read.
    with tempfile.TemporaryDirectory() as made:
        if source is None or name not in _PUBLIC:
            counts = sample.write(Path(made), seed, drift=drift)
        else:
            counts = _PUBLIC[name].write(Path(made), source)
        with output_folder(output, overwrite=overwrite) as folder:
            shutil.copytree(made, folder, dirs_exist_ok=True)
            write_json(folder / MANIFEST, {"kind": "dataset", "name": name, "counts": counts})
    return counts

"""Split by time, as in production: the models beside what is popular, lately and over all.

A global split: the last tenth of the log tests, the tenth before it chooses the best epoch, and
half an hour ahead of each is in no part, as in Yambda's protocol (which tests on a day: the last
days of these logs have too few events). Recent popularity stands beside every figure, because it
beats famous models on such splits. MovieLens 100K and 1M with their shipped configs (of 1M the
ratings whose times are the original ones), DeskDrop with the config that `twotower init` drafts.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from _datasets import deskdrop
from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset

METRICS = ("recall_at_10", "ndcg_at_10")
RECENT = "recent popularity"
SPLIT = "split={by: time, gap_s: 1800}"


def movielens_100k(folder: Path, data: Path) -> None:
    """Writes the dataset folder."""
    write_dataset("movielens-100k", folder, data / "ml-100k")


def movielens_1m(folder: Path, data: Path) -> None:
    """See `movielens_100k`."""
    write_dataset("movielens-1m", folder, data / "ml-1m")
    quality = pd.read_csv(data / "ml-1m" / "timestamp_quality.txt.gz", header=None)[0]
    path = folder / "interactions.parquet"
    pd.read_parquet(path)[(quality == 0).to_numpy()].to_parquet(path, index=False)


SETS: dict[str, Callable[[Path, Path], None]] = {
    "MovieLens 100K": movielens_100k,
    "DeskDrop": deskdrop,
    "MovieLens 1M, original times": movielens_1m,
}


@benchmark(
    code=[*TRAINED, "tfrs_twotower/datasets"],
    data=".",
)
def main(quick: bool, data: Path) -> list[Measurement]:
    found = []
    for name in list(SETS)[:2] if quick else SETS:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            SETS[name](root / "log", data)
            settings = [SPLIT, *(["training.epochs=2"] if quick else [])]
            config = api.load_config(root / "log" / "twotower.yaml", settings)
            api.prepare(config, root / "log", root / "prepared", progress=False)
            api.train(config, root / "prepared", root / "run", progress=False)
            systems = api.evaluate(root / "run", root / "prepared").systems
        for metric in METRICS:
            recent = systems[RECENT]["all"][metric]
            for system, figures in systems.items():
                value, unit = figures["all"][metric], f"{metric}, {name}"
                found.append(Measurement(system, value, unit, RECENT, recent))
    return found


if __name__ == "__main__":
    main()

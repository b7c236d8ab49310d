"""What a refit on train and validation gains on the test split: the shipped configs, one seed.

The generated sample and MovieLens 100K, trained without and with `training.refit`. The baselines of
a refitted model know the validation events, too, and stand beside it. `--quick`: the sample, two
epochs.
"""

import tempfile
from pathlib import Path

from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset

METRICS = ("recall_at_10", "ndcg_at_10")
# Folder of the original files, by name of the data set; the sample is generated.
SOURCES = {"sample": None, "movielens-100k": "ml-100k"}


def without_and_with(dataset: str, source: Path | None, settings: list[str]) -> list[Measurement]:
    """Trains and evaluates twice on one prepared folder."""
    systems = {}
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write_dataset(dataset, folder / "log", source)
        config_file = folder / "log" / "twotower.yaml"
        api.prepare(config_file, folder / "log", folder / "prepared", progress=False)
        for refit in ("false", "true"):
            config = api.load_config(config_file, [*settings, f"training.refit={refit}"])
            run = folder / f"refit-{refit}"
            api.train(config, folder / "prepared", run, progress=False)
            systems[refit] = api.evaluate(run, folder / "prepared").systems
    return [
        Measurement(
            f"{system}, refit",
            figures["all"][metric],
            f"{metric}, {dataset}",
            system,
            systems["false"][system]["all"][metric],
        )
        for system, figures in systems["true"].items()
        for metric in METRICS
    ] + [
        Measurement(system, figures["all"][metric], f"{metric}, {dataset}")
        for system, figures in systems["false"].items()
        for metric in METRICS
    ]


@benchmark(code=[*TRAINED, "tfrs_twotower/datasets"], data=".")
def main(quick: bool, data: Path) -> list[Measurement]:
    """Trains on one data set after the other."""
    if quick:
        return without_and_with("sample", None, ["training.epochs=2"])
    found = []
    for dataset, source in SOURCES.items():
        found += without_and_with(dataset, data / source if source else None, [])
    return found


if __name__ == "__main__":
    main()

"""`twotower demo` on each data set that it knows: every step, a server and its answers.

The generated sample (`make demo`), MovieLens 100K and 1M with their shipped configs; the figures
are those that the demo prints at its end, of the test split. `--quick`: the sample, one epoch.
"""

import json
import tempfile
from pathlib import Path

import yaml
from _harness import TRAINED, Measurement, benchmark
from _processes import TWOTOWER, whole

from tfrs_twotower.datasets import write_dataset

METRICS = ("recall_at_10", "recall_at_100")
# Folder of the original files, by name of the data set; the sample is generated.
SOURCES = {"sample": None, "movielens-100k": "ml-100k", "movielens-1m": "ml-1m"}


def one_epoch(folder: Path) -> Path:
    """The sample as a folder whose config trains for one epoch."""
    write_dataset("sample", folder)
    path = folder / "twotower.yaml"
    config = yaml.safe_load(path.read_text())
    config["training"]["epochs"] = 1
    path.write_text(yaml.safe_dump(config))
    return folder


def run_demo(dataset: str, options: list[str]) -> list[Measurement]:
    """Runs the demo, and reads the figures that it printed."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        cost = whole(*TWOTOWER, "demo", *options, "--workdir", folder)
        report = json.loads((workdir / "run" / "evaluation" / "test-full.json").read_text())
    systems = {name: of["all"] for name, of in report["metrics"].items()}
    popular = systems["popularity"]
    found = [
        Measurement(name, values[metric], f"{metric}, {dataset}", "popularity", popular[metric])
        for name, values in systems.items()
        for metric in METRICS
    ]
    return [
        *found,
        Measurement("all steps", cost.wall / 60, f"min, {dataset}"),
        Measurement("the largest process", cost.peak / 1e9, f"GB, {dataset}"),
    ]


@benchmark(code=[*TRAINED, "pipelines/prepare", "tfrs_twotower/datasets"], data=".")
def main(quick: bool, data: Path) -> list[Measurement]:
    """Runs one demo after the other."""
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            sample = one_epoch(Path(folder) / "dataset")
            return run_demo("sample", ["--dataset", str(sample)])
    found = []
    for dataset, source in SOURCES.items():
        originals = ["--source", str(data / source)] if source else []
        found += run_demo(dataset, ["--dataset", dataset, *originals])
    return found


if __name__ == "__main__":
    main()

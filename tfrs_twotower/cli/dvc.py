"""A `dvc.yaml` with a stage for each step of a dataset folder, for DVC (https://dvc.org) to run.

`twotower run` skips unchanged steps by itself; DVC also keeps the data beside the commits of a
repository, compares experiments and runs in CI.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfrs_twotower.schema import Config, UsageError
from tfrs_twotower.schema.folders import MANIFEST, write_json
from tfrs_twotower.schema.runs import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    INPUTS_FILE,
    METRICS_FILE,
    VOCABULARIES,
)

FILE = "dvc.yaml"
HEADER = """\
# Written by `twotower init --dvc`; `dvc repro` runs what has changed. Paths are from this folder.
# The stage `config` cuts the config into the parts that each step depends on, so that a changed key
# runs those steps alone. The models folder is no output: `twotower promote` and `refresh` change
# it.
"""


def stages(log: Sequence[str]) -> dict[str, Any]:
    """The stages, as `dvc.yaml` holds them.

    Args:
        log: Names of the files of the log, of candidates and of queries, from the dataset folder.
    """
    # Steps replace what they write by themselves; a stage that fails leaves what was there.
    kept = {"persist": True}
    weights = [f"{BEST_WEIGHTS}.index", f"{BEST_WEIGHTS}.data-00000-of-00001"]
    run = [
        f"work/run/{name}" for name in (MANIFEST, CONFIG_FILE, INPUTS_FILE, VOCABULARIES, *weights)
    ]
    prepared = "work/prepared"
    of_run = f"--run work/run --data {prepared}"
    return {
        "stages": {
            "config": {
                "cmd": "twotower config --config twotower.yaml --output work/config",
                "params": [{"twotower.yaml": None}],
                "outs": [f"work/config/{step}.json" for step in ("prepare", "train", "export")],
            },
            "prepare": {
                "cmd": "twotower prepare --config twotower.yaml --dataset . "
                f"--output {prepared} --overwrite",
                "deps": ["work/config/prepare.json", *log],
                "outs": [{prepared: kept}],
            },
            "train": {
                "cmd": f"twotower train --config twotower.yaml --data {prepared} "
                "--output work/run --overwrite",
                "deps": ["work/config/train.json", prepared],
                "outs": [{path: kept} for path in run],
                "metrics": [{f"work/run/{METRICS_FILE}": {"cache": False, **kept}}],
            },
            "evaluate": {
                "cmd": f"twotower evaluate {of_run} --json work/evaluation.json",
                "deps": [prepared, *run],
                "metrics": [{"work/evaluation.json": {"cache": False}}],
            },
            "export": {
                "cmd": f"twotower export {of_run} --config twotower.yaml --output work/models "
                "--json > work/export.json",
                "deps": ["work/config/export.json", prepared, *run],
                "outs": [{"work/export.json": {"cache": False}}],
            },
        }
    }


def write_stages(folder: Path, log: Sequence[str], *, overwrite: bool = False) -> Path:
    """Writes `dvc.yaml` beside the config.

    Raises:
        UsageError: If there is one.
    """
    path = folder / FILE
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: pass --overwrite to replace it")
    text = yaml.safe_dump(stages(log), sort_keys=False, width=100)
    path.write_text(HEADER + text, encoding="utf-8")
    return path


def write_parts(config: Config, folder: Path) -> None:
    """Writes what of a config each step depends on, as JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "prepare.json", config.record_schema())
    write_json(folder / "train.json", config.training_schema())
    write_json(folder / "export.json", config.export_schema())

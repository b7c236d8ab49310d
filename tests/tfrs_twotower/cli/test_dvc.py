"""The stages of `dvc.yaml` fit each other, and DVC runs what a changed key asks for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import tiny_world
from tfrs_twotower.cli import main
from tfrs_twotower.cli.dvc import stages, write_parts, write_stages
from tfrs_twotower.schema import UsageError

LOG = ["interactions.csv", "candidates.csv"]
ROOT = Path(__file__).parents[3]


def paths(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_a_stage_reads_the_log_and_what_earlier_stages_write():
    written: set[str] = set()
    for name, stage in stages(LOG)["stages"].items():
        assert set(paths(stage.get("deps", []))) <= written | set(LOG), name
        outs = paths([*stage.get("outs", []), *stage.get("metrics", [])])
        # DVC refuses outputs that hold one another.
        for out in outs:
            assert not any(
                other == out or other in map(str, Path(out).parents) for other in written
            )
        written |= set(outs)


def test_a_key_changes_the_part_of_the_steps_that_depend_on_it(tmp_path):
    config = tiny_world.config()
    write_parts(config, tmp_path / "before")
    changes = {"training": {"epochs": 3}, "index": {"target_recall": 0.5}}
    changed = {
        key: config.model_copy(update={key: getattr(config, key).model_copy(update=values)})
        for key, values in changes.items()
    }

    for key, expected in (("training", {"train"}), ("index", {"export"})):
        write_parts(changed[key], tmp_path / key)
        differing = {
            path.stem
            for path in (tmp_path / "before").iterdir()
            if path.read_bytes() != (tmp_path / key / path.name).read_bytes()
        }
        assert differing == expected


def test_a_dvc_yaml_that_is_there_is_kept(tmp_path):
    write_stages(tmp_path, LOG)

    with pytest.raises(UsageError, match="pass --overwrite"):
        write_stages(tmp_path, LOG)

    assert yaml.safe_load((tmp_path / "dvc.yaml").read_text()) == stages(LOG)


def test_config_and_output_go_together(capsys):
    assert main(["config", "--output", "parts"]) == 2
    assert "go together" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dvc") is None, reason="needs DVC on the path: pipx install dvc")
def test_dvc_runs_every_stage_then_none_then_those_of_a_changed_key(tmp_path):
    folder = tiny_world.write_dataset(tmp_path / "shop")
    config = folder / "twotower.yaml"
    config.write_text(tiny_world.CONFIG_TEXT.replace("epochs: 20", "epochs: 1"), encoding="utf-8")
    write_stages(folder, ["interactions.csv"])
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DVC_NO_ANALYTICS": "1",
    }

    def dvc(*words: str) -> str:
        done = subprocess.run(
            ["dvc", *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ran(output: str) -> set[str]:
        return {name for name in stages([])["stages"] if f"Running stage '{name}'" in output}

    dvc("init", "--no-scm")
    assert ran(dvc("repro")) == {"config", "prepare", "train", "evaluate", "export"}
    assert json.loads((folder / "work" / "export.json").read_text())
    assert ran(dvc("repro")) == set()
    with config.open("a", encoding="utf-8") as file:
        file.write("index: {target_recall: 0.8}\n")
    assert ran(dvc("repro")) == {"config", "export"}

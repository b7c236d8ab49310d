"""A stranger's script passes `mypy --strict` against the installed package, and runs."""

import math
import os
import re
import runpy
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STRANGER = Path(__file__).with_name("stranger.py")
PACKAGES = ("tfrs_twotower", "pipelines", "serving")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A Python that has the packages as an installation lays them down, and the libraries."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in PACKAGES:
        (packages / name).symlink_to(ROOT / name, target_is_directory=True)
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "python"


def mypy(script: Path, python: Path, cache: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(script)]
    options = [f"--python-executable={python}", f"--cache-dir={cache}"]
    done = subprocess.run(
        [*command, *options],
        cwd=script.parent,
        # A path of the environment would make the packages part of the stranger's own code.
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    return done.stdout


@pytest.mark.slow
def test_a_strangers_script_is_typed(installed, tmp_path):
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER.read_text(encoding="utf-8"))
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tfrs_twotower as tt\n"
        "tt.train('twotower.yaml', 'prepared', 'run', overwrit=True)\n"
        "tt.prepare('twotower.yaml', 'dataset')\n"
        "tt.recommend('models', {}).candidate_id\n"
        "tt.trian\n"
    )

    assert "Success: no issues found" in mypy(script, installed, tmp_path / "cache")
    # The types are there: a stranger's mistakes are found.
    found = mypy(wrong, installed, tmp_path / "cache")
    assert re.findall(r"^wrong.py:(\d): error", found, re.MULTILINE) == ["2", "3", "4", "5"]


@pytest.mark.slow
def test_a_strangers_script_runs(tmp_path, capsys):
    runpy.run_path(str(STRANGER))["main"](tmp_path)

    said = capsys.readouterr().out
    assert "40 queries, 24 candidates" in said
    assert "prepared is finished: pass `overwrite=True` to replace it, or name another" in said
    # Four queries, each with one positive of score 1 and three negatives of score 0.
    temperature = 0.5
    assert f"loss {math.log1p(3 * math.exp(-1 / temperature)):.4f}" in said

"""The wheel: what is in it, and its client and its commands in environments of their own."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.model_config import ModelConfig
from serving.model_server import ModelServer
from tests import small_shop
from tests.serving import toy_models

ROOT = Path(__file__).parent.parent
DATA = [
    "serving/Dockerfile",
    "serving/batching.config",
    "serving/compose.yaml",
    "serving/kubernetes.yaml",
    "serving/monitoring.config",
    "serving/requirements.txt",
    "tfrs_twotower/datasets/sample.yaml",
    "tfrs_twotower/py.typed",
]


def run(*command, cwd, timeout_s=300, **variables):
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: setuptools builds beside the sources, and packs what an earlier build left there.
    for package in ("tfrs_twotower", "pipelines", "serving"):
        shutil.copytree(ROOT / package, folder / "source" / package)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder)
    run(*build, folder / "source", cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_their_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert set(DATA) <= set(names)
    assert any(name.endswith(".j2") for name in names)
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]


@pytest.mark.slow
def test_the_client_of_the_wheel_asks_a_server_without_tensorflow(wheel, tmp_path):
    site = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", site)
    run(*install, "-c", ROOT / "constraints.txt", f"{wheel}[client]", cwd=tmp_path)
    toy_models.write_retrieval(tmp_path / "retrieval", 1)
    with ModelServer([ModelConfig("retrieval", tmp_path / "retrieval")], rest_port=None) as server:
        script = (
            "import importlib.util\n"
            "from serving.client import RetrievalClient\n"
            f"with RetrievalClient('127.0.0.1:{server.port}', timeout_s=60) as client:\n"
            "    answer = client.recommend_one({'user_id': 'east', 'history': ['a']}, k=2)\n"
            "print(importlib.util.find_spec('tensorflow'), *answer.candidate_ids)"
        )
        # -S: without what is installed beside this interpreter.
        said = run(sys.executable, "-S", "-c", script, cwd=tmp_path, PYTHONPATH=str(site))

    assert said.split() == ["None", "a", "b"]


@pytest.mark.slow
def test_the_wheel_goes_from_a_log_to_answers_with_another_python(wheel, tmp_path):
    # pyenv, where `python3.12` is a shim of its, runs it only if told so.
    newer = {"PYENV_VERSION": "3.12"}
    try:
        run("python3.12", "-m", "venv", tmp_path / "venv", cwd=tmp_path, **newer)
    except (AssertionError, FileNotFoundError):
        pytest.skip("no Python 3.12 on the path")
    python = tmp_path / "venv" / "bin" / "python"
    install = (python, "-m", "pip", "install", "-q", "--no-compile", "-c", ROOT / "constraints.txt")
    run(*install, f"{wheel}[pipelines,serving,train]", cwd=tmp_path, timeout_s=900)
    twotower = tmp_path / "venv" / "bin" / "twotower"
    small_shop.write_dataset(tmp_path / "shop")
    models, query = "shop/work/models", json.dumps({"user": "u07"})
    alone = {"cwd": tmp_path, "PYTHONPATH": ""}
    run(twotower, "run", "shop", timeout_s=600, **alone)
    answer = run(twotower, "recommend", "--models", models, "--query", query, "--json", **alone)
    checked = run(twotower, "doctor", models, "--json", **alone)

    assert len(json.loads(answer)["candidate_ids"]) == 10
    assert str(tmp_path / "venv") in run(
        python, "-c", "import serving; print(serving.__file__)", **alone
    )
    assert json.loads(checked)

"""The wheel: what is in it, and the client without TensorFlow in an environment of its own."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving.model_config import ModelConfig
from serving.server import ModelServer
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


def run(*command, cwd, **variables):
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_client_of_the_wheel_asks_a_server_without_tensorflow(tmp_path):
    # A copy: setuptools builds beside the sources, and packs what an earlier build left there.
    for package in ("tfrs_twotower", "pipelines", "serving"):
        shutil.copytree(ROOT / package, tmp_path / "source" / package)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path)
    run(*build, tmp_path / "source", cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert set(DATA) <= set(names)
    assert any(name.endswith(".j2") for name in names)
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]

    site = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", site)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    of_client = setup["options.extras_require"]["client"].split()
    run(*install, "-c", ROOT / "constraints.txt", *of_client, cwd=tmp_path)
    run(*install, "--no-deps", wheel, cwd=tmp_path)
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

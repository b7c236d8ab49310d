"""What a worker's image starts: Beam's worker with this package installed, and no source beside."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.prepare.test_runners import CONFIG, contents, small_world  # noqa: F401

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package, installed from the files that the image's Dockerfile copies."""
    source, target = tmp_path_factory.mktemp("app"), tmp_path_factory.mktemp("installed")
    dockerfile = (ROOT / "pipelines" / "Dockerfile").read_text()
    for names, to in re.findall(r"^COPY (.+) (\S+)$", dockerfile, re.MULTILINE):
        for name in names.split():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / to)
            else:
                shutil.copy(ROOT / name, source / to)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, source],
        capture_output=True,
        text=True,
    )
    if "No matching distribution found for setuptools" in done.stderr:
        pytest.skip("no network to a package index: the package cannot be built")
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.slow
def test_a_worker_of_the_installed_package_writes_the_same(small_world, installed, tmp_path):  # noqa: F811
    small_world.prepare(CONFIG)
    expected = contents(small_world.output)
    seen = tmp_path / "seen"
    # As the image's boot program does: nothing but the environment names the job.
    worker = (
        f"cd / && export PYTHONPATH={installed} && "
        f'{sys.executable} -c "import pipelines; print(pipelines.__file__)" > {seen} && '
        f"exec {sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    )

    small_world.prepare(
        CONFIG,
        overwrite=True,
        beam_args=[
            "--runner=PortableRunner",
            "--job_endpoint=embed",
            "--environment_type=beam:env:harness_subprocess_python:v1",
            f"--environment_config={worker}",
        ],
    )

    assert Path(seen.read_text().strip()).is_relative_to(installed)
    assert contents(small_world.output) == expected

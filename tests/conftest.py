"""Options, public data and a clean environment for every test."""

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import mongodb

# An example takes longer on a busy machine, and is no worse for it.
hypothesis.settings.register_profile("untimed", hypothesis.settings(deadline=None))
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
DATA_VARIABLE = "TFRS_TWOTOWER_DATA"

# Read by TensorFlow, gRPC and rich: a developer's shell must not decide a test.
FOREIGN_VARIABLES = (
    "COLUMNS",
    "FORCE_COLOR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_COLOR",
    "TF_CONFIG",
    "grpc_proxy",
    "http_proxy",
    "https_proxy",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data",
        type=Path,
        help=f"folder of the public data sets (ml-100k, ml-1m, gowalla); or set {DATA_VARIABLE}",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Turns TensorFlow's rewriting of graphs off in this process, where tests need TensorFlow.

    It takes seconds for each function that a test runs once. Servers, and processes that tests
    start, rewrite as always.
    """
    do_not_rewrite_graphs()


def do_not_rewrite_graphs() -> None:
    """For processes whose results are to be those of the tests' own, to the last bit."""
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def public_data(pytestconfig: pytest.Config) -> Path:
    """The folder of the public data sets, each in a folder of its name."""
    given = pytestconfig.getoption("--data") or os.environ.get(DATA_VARIABLE)
    folder = Path(given) if given else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        if given:
            pytest.fail(f"no folder {folder}: fix --data or {DATA_VARIABLE}")
        pytest.skip(f"no public data: name its folder with --data DIR or {DATA_VARIABLE}=DIR")
    return folder


@pytest.fixture(scope="session")
def mongodb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks MongoDB's protocol."""
    program = mongodb.ferretdb()
    if program is None:
        pytest.skip("no ferretdb: build it with `.ci/ferretdb`")
    with mongodb.server(program, tmp_path_factory.mktemp("ferretdb")) as address:
        yield address


@pytest.fixture
def database(mongodb_server: str) -> str:
    """The address of an empty database."""
    return f"{mongodb_server}/test_{secrets.token_hex(4)}"


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of the sample with which a training takes seconds."""
    from tfrs_twotower.datasets import sample, sample_world

    for module in (sample, sample_world):
        monkeypatch.setattr(module, "NUM_QUERIES", 1000)
        monkeypatch.setattr(module, "NUM_CANDIDATES", 500)
    monkeypatch.setattr(sample_world, "NUM_EVENTS", 30_000)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN_VARIABLES:
        monkeypatch.delenv(name, raising=False)

"""Object stores: in memory, and servers on this machine that Beam's own classes talk to."""

import importlib.util

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from tests.pipelines.stores import servers
from tests.pipelines.stores.memory import PREFIX, STORE


@pytest.fixture
def store():
    """The store in memory, empty."""
    STORE.clear()
    yield STORE
    STORE.clear()


@pytest.fixture(scope="session")
def gcs():
    """A server of Google Cloud Storage."""
    _need("google.cloud.storage", "google_auth_httplib2", "gcp_storage_emulator")
    with servers.gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3():
    """A server of S3."""
    _need("boto3", "moto", "flask_cors")
    with servers.s3_server() as server:
        yield server


def _need(*modules):
    missing = [name for name in modules if not _is_installed(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install the extra `stores`")


def _is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture
def on_server(monkeypatch):
    """Points this process at a server; gives the URL of its bucket."""

    # Beam's S3 file system refuses to work without options.
    monkeypatch.setattr(FileSystems, "_pipeline_options", PipelineOptions([]))

    def point(server):
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        if server.root.startswith("gs://"):
            from apache_beam.internal.gcp import auth

            # Beam asks for an account four times, for half a minute, before it goes without.
            monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
            monkeypatch.setattr(auth._Credentials, "_credentials", None)
        return server.root

    return point


@pytest.fixture(params=["mem", "gs", pytest.param("s3", marks=pytest.mark.slow)])
def root(request, on_server):
    """An empty folder of each store."""
    if request.param == "mem":
        request.getfixturevalue("store")
        return f"{PREFIX}bucket/{request.node.originalname}"
    server = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])
    return f"{on_server(server)}/{request.node.originalname}"

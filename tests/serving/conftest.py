"""Toy models on disk, and servers of them: the embedded one, and the real one where it is."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.batching import BatchingOptions
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from tests.serving import toy_models
from tfrs_twotower.schema.scann_ops import scann_op_library

TF_MODEL_SERVER = os.environ.get("TF_MODEL_SERVER")
MODELS = ("retrieval", "query_tower")


class RunningServer(NamedTuple):
    """Where a server listens."""

    port: int
    rest_port: int

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def stub(self, service=prediction_service_pb2_grpc.PredictionServiceStub):
        with grpc.insecure_channel(self.target) as channel:
            yield service(channel)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """A models folder with version 3 of the toy models."""
    folder = tmp_path_factory.mktemp("models")
    toy_models.write_retrieval(folder / "retrieval", 3)
    toy_models.write_query_tower(folder / "query_tower", 3)
    return folder


@pytest.fixture(scope="session")
def embedded(models_dir):
    """The embedded server on the toy models."""
    models = [ModelConfig(name, models_dir / name) for name in MODELS]
    with ModelServer(models) as server:
        yield RunningServer(server.port, server.rest_port)


@pytest.fixture(scope="session")
def batching(models_dir):
    """The embedded server on the toy models, merging requests."""
    models = [ModelConfig(name, models_dir / name) for name in MODELS]
    options = ServerOptions(batching=BatchingOptions(pad_variable_length_inputs=True))
    with ModelServer(models, options=options) as server:
        yield RunningServer(server.port, server.rest_port)


@pytest.fixture(
    scope="session",
    params=[
        "embedded",
        "batching",
        pytest.param("tensorflow_model_server", marks=pytest.mark.tf_serving),
    ],
)
def server(request, models_dir, tmp_path_factory):
    """Each server that must give the same answers."""
    if request.param in ("embedded", "batching"):
        yield request.getfixturevalue(request.param)
    elif not TF_MODEL_SERVER:
        pytest.skip("TF_MODEL_SERVER names no tensorflow_model_server")
    else:
        config_path = tmp_path_factory.mktemp("config") / "models.config"
        config_path.write_text(render_config(models_dir))
        with running_model_server(config_path) as running:
            yield running


def render_config(models_dir):
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{models_dir / name}" '
        'model_platform: "tensorflow" }\n'
        for name in MODELS
    )
    return f"model_config_list {{\n{entries}}}\n"


def takes_more_ops():
    """Whether the real server shares TensorFlow's library, so that it can be given ScaNN's ops."""
    return b"libtensorflow_framework.so.2" in Path(TF_MODEL_SERVER).read_bytes()


@contextlib.contextmanager
def running_model_server(config_path):
    ops = {"LD_PRELOAD": str(scann_op_library())} if takes_more_ops() else {}
    port, rest_port = free_port(), free_port()
    process = subprocess.Popen(
        [
            TF_MODEL_SERVER,
            f"--port={port}",
            f"--rest_api_port={rest_port}",
            f"--model_config_file={config_path}",
            "--grpc_max_threads=200",
        ],
        env={**os.environ, **ops},
        stderr=subprocess.DEVNULL,
    )
    try:
        running = RunningServer(port, rest_port)
        wait_until(lambda: is_available(running), timeout_s=60)
        yield running
    finally:
        process.terminate()
        process.wait()


def rest(server, path, document=None):
    """HTTP status and JSON of a REST call."""
    body = None if document is None else json.dumps(document).encode()
    url = f"http://127.0.0.1:{server.rest_port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_available(running):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = MODELS[-1]
    with running.stub(model_service_pb2_grpc.ModelServiceStub) as stub:
        try:
            statuses = stub.GetModelStatus(request, timeout=1).model_version_status
        except grpc.RpcError:
            return False
    return any(status.state == status.AVAILABLE for status in statuses)


def is_healthy(target):
    with grpc.insecure_channel(target) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1
            )
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING


def wait_until(condition, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)

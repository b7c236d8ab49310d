"""Health checks: whoever watches is told of every change, whatever the others do."""

import contextlib
import queue
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving import model_server
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from tests.serving.conftest import rest, wait_until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@contextlib.contextmanager
def watching(port, service=""):
    """What a caller of `Watch` is told, as a queue; it leaves at the end of the block."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=service)
        )
        told = queue.Queue()

        def read():
            try:
                for one in call:
                    told.put(one.status)
            except grpc.RpcError as error:
                told.put(error.code())

        reader = threading.Thread(target=read)
        reader.start()
        yield told
        call.cancel()
        reader.join()


@pytest.fixture
def make(models_dir):
    """A server of the toy models that has not started."""

    def made(**options):
        models = [ModelConfig("retrieval", models_dir / "retrieval")]
        return ModelServer(models, options=ServerOptions(**options))

    return made


def test_a_watcher_is_told_of_the_end_though_another_has_left(make):
    server = make()
    server.start()

    with watching(server.port) as stays:
        assert stays.get(timeout=30) == SERVING
        with watching(server.port) as leaves:
            assert leaves.get(timeout=30) == SERVING
        wait_until(lambda: server._health._num_watchers == 1)
        server.stop()

        assert stays.get(timeout=30) == NOT_SERVING


def test_a_watcher_of_a_server_that_loads_is_told_when_it_is_ready(make, monkeypatch):
    loading, load = threading.Event(), model_server.load

    def slow(*args, **options):
        assert loading.wait(60)
        return load(*args, **options)

    monkeypatch.setattr(model_server, "load", slow)
    server = make()
    starting = threading.Thread(target=server.start)
    starting.start()

    with watching(server.port) as told:
        assert told.get(timeout=30) == NOT_SERVING
        assert rest(server, "/ready") == (503, {"ready": False})
        loading.set()

        assert told.get(timeout=30) == SERVING
        assert rest(server, "/ready") == (200, {"ready": True})
    starting.join()
    server.stop()


def test_a_service_that_is_not_there_is_unknown(make):
    with make() as server:
        with watching(server.port, service="another") as told:
            assert told.get(timeout=30) == UNKNOWN
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            code = check.future(health_pb2.HealthCheckRequest(service="another"), timeout=30).code()

    assert code == grpc.StatusCode.NOT_FOUND


def test_one_watcher_too_many_is_refused_and_takes_no_place(make):
    with make(max_connections=2) as server, watching(server.port) as first:
        assert first.get(timeout=30) == SERVING
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        watch = health_pb2_grpc.HealthStub(channel).Watch
        with channel:
            second = watch(health_pb2.HealthCheckRequest())
            assert next(second).status == SERVING
            third = watch(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.RpcError) as refused:
                next(third)
            second.cancel()
            wait_until(lambda: server._health._num_watchers == 1)
            assert next(watch(health_pb2.HealthCheckRequest())).status == SERVING

    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

"""The demo waits for a server that is at work, and notices one that is not."""

from concurrent import futures

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from tfrs_twotower.cli import demo
from tfrs_twotower.schema import UserError


class Server:
    """A process that loads for some looks at it, then does what a test says."""

    def __init__(self, busy_looks: int, then=lambda: None) -> None:
        self.looks, self._busy_looks, self._then = 0, busy_looks, then

    def has_ended(self) -> bool:
        self.looks += 1
        if self.looks == self._busy_looks:
            self._then()
        return False

    def cpu_ticks(self) -> int:
        return min(self.looks, self._busy_looks)


@pytest.fixture
def grpc_server(monkeypatch):
    monkeypatch.setattr(demo, "POLL_S", 0.01)
    monkeypatch.setattr(demo, "ANSWER_S", 0.05)
    server, health = grpc.server(futures.ThreadPoolExecutor(1)), HealthServicer()
    health.set("", HealthCheckResponse.SERVING)
    add_HealthServicer_to_server(health, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    yield server, target
    server.stop(None)


def test_a_server_that_loads_is_waited_for(grpc_server):
    server, target = grpc_server
    process = Server(demo.MAX_IDLE_POLLS + 20, server.start)

    demo._wait_until_ready(target, process)

    assert process.looks >= demo.MAX_IDLE_POLLS + 20


def test_a_server_that_does_nothing_is_given_up(grpc_server):
    process = Server(3)

    with pytest.raises(UserError, match="neither answers nor does anything"):
        demo._wait_until_ready(grpc_server[1], process)

    assert process.looks == 3 + demo.MAX_IDLE_POLLS


def test_a_server_that_has_ended_is_noticed_at_once(grpc_server):
    class Ended(Server):
        def has_ended(self) -> bool:
            super().has_ended()
            return True

    process = Ended(100)
    with pytest.raises(UserError, match="the server ended before it answered, see above"):
        demo._wait_until_ready(grpc_server[1], process)

    assert process.looks == 1

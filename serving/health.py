"""What health checks are told, over gRPC and HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """Answers gRPC's health checks; NOT_SERVING until told otherwise. Of the event loop alone.

    In place of `grpc_health`'s servicer for asyncio: a watcher that leaves there takes with it what
    tells the others of a change, and it has no limit on their number.
    """

    def __init__(self, services: Sequence[str], max_watchers: int) -> None:
        """Is not ready.

        Args:
            services: The names that checks may ask for; all have the same health.
            max_watchers: Callers of `Watch`; one more is refused.
        """
        self._services = frozenset(services)
        self._max_watchers = max_watchers
        self._num_watchers = 0
        self._is_ready = False
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether requests are welcome; of any thread."""
        return self._is_ready

    async def set_ready(self, is_ready: bool) -> None:
        """Tells all who watch."""
        self._is_ready = is_ready
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:
        """The health now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, context: Any) -> None:
        """The health now, and whenever it changes."""
        if self._num_watchers >= self._max_watchers:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self._num_watchers} watch already"
            )
        self._num_watchers += 1
        told = None
        try:
            while True:
                changed, status = self._changed, self._status(request.service)
                if status != told:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    told = status
                await changed.wait()
        finally:
            self._num_watchers -= 1

    def _status(self, service: str) -> int:
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._is_ready else _NOT_SERVING

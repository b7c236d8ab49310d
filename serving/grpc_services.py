"""TF Serving's gRPC services on asyncio, on the stubs of `tensorflow-serving-api`."""

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.core import Core
from serving.draining import Gate
from serving.errors import INTERNAL_FAULT, ServingError, UnimplementedError

_LOG = logging.getLogger(__name__)

# What a caller sends may stand in the message, which is sent back among the headers: those have a
# limit of their own.
_LONGEST_MESSAGE = 1000


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, core: Core, gate: Gate) -> None:
        """Offers what `core` answers, to calls that pass `gate`."""
        self._core, self._gate = core, gate

    async def Predict(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """See `Core.predict`."""
        async with _refusals(context), self._gate.passed():
            return await self._core.predict(request, context.time_remaining())

    async def GetModelMetadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """See `Core.metadata`."""
        async with _refusals(context), self._gate.passed():
            return self._core.metadata(request)

    async def Classify(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Not offered."""
        await _not_offered(context)

    async def Regress(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Not offered."""
        await _not_offered(context)

    async def MultiInference(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Not offered."""
        await _not_offered(context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, core: Core, gate: Gate) -> None:
        """Offers what `core` answers, to calls that pass `gate`."""
        self._core, self._gate = core, gate

    async def GetModelStatus(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        """See `Core.status`."""
        async with _refusals(context), self._gate.passed():
            return self._core.status(request)

    async def HandleReloadConfigRequest(
        self, request: Any, context: grpc.aio.ServicerContext
    ) -> None:
        """Not offered: a request must not name folders to open."""
        await _not_offered(context)


class UnreadableRequests(grpc.aio.ServerInterceptor):
    """Refuses bytes that are no message.

    gRPC would tell the caller UNKNOWN, and write a traceback into the log for each.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, unary ones with the check before them."""
        handler = await continuation(handler_call_details)
        return handler if handler is None or handler.unary_unary is None else _readable(handler)


@functools.cache
def _readable(handler: Any) -> Any:
    def read(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return _UNREADABLE

    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if request is _UNREADABLE:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this method"
            )
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)


_UNREADABLE = object()


@asynccontextmanager
async def _refusals(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Tells the caller what goes wrong in the block."""
    try:
        yield
    except ServingError as error:
        status, said = error.status, str(error)
    except Exception:
        _LOG.exception("a gRPC request failed")
        status, said = grpc.StatusCode.INTERNAL, INTERNAL_FAULT
    else:
        return
    await context.abort(status, said[:_LONGEST_MESSAGE])


async def _not_offered(context: grpc.aio.ServicerContext) -> None:
    async with _refusals(context):
        raise UnimplementedError("this server offers Predict, GetModelMetadata and GetModelStatus")

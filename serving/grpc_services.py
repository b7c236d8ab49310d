"""TF Serving's gRPC services on asyncio, on the stubs of `tensorflow-serving-api`."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
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

# Larger requests are parsed and answered a few at a time: as Python's objects, a message of short
# strings takes more than twenty times its bytes. The others wait as bytes.
LARGE_BYTES = 64 * 1024
MOST_LARGE = 8

# From the begin of a call, or from a stream's message before, to the last byte of a message.
READ_TIMEOUT_S = 10.0


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


class ReadMessages(grpc.aio.ServerInterceptor):
    """Reads the messages of calls: refuses a call whose message does not come, or is none.

    gRPC would wait for a message as long as the caller keeps the call open, which counts among the
    calls that the server bears. Of bytes that are no message it would tell the caller UNKNOWN, and
    write a traceback into the log for each.
    """

    def __init__(self) -> None:
        """Is of the event loop alone."""
        self._large = asyncio.Semaphore(MOST_LARGE)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, with the reading before it."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _reading(handler, self._large)


@functools.cache
def _reading(handler: Any, large: asyncio.Semaphore) -> Any:
    """A handler of a stream of bytes; on the wire, one message is a stream of one."""

    async def read(context: grpc.aio.ServicerContext) -> Any:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                data = await context.read()
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the message did not come whole within {READ_TIMEOUT_S:g} s",
            )
        return data

    async def parsed(data: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _UNREADABLE)

    @asynccontextmanager
    async def one(context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        data = await read(context)
        if data is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _UNREADABLE)
        async with large if len(data) > LARGE_BYTES else nullcontext():
            yield await parsed(data, context)

    async def read_all(context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        while (data := await read(context)) is not grpc.aio.EOF:
            yield await parsed(data, context)

    async def answer(_: Any, context: grpc.aio.ServicerContext) -> Any:
        async with one(context) as message:
            return await handler.unary_unary(message, context)

    async def answer_by_stream(_: Any, context: grpc.aio.ServicerContext) -> None:
        async with one(context) as message:
            await handler.unary_stream(message, context)

    async def answer_each(_: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async for reply in handler.stream_stream(read_all(context), context):
            yield reply

    if handler.unary_unary:
        return grpc.stream_unary_rpc_method_handler(answer, None, handler.response_serializer)
    streaming = answer_by_stream if handler.unary_stream else answer_each
    return grpc.stream_stream_rpc_method_handler(streaming, None, handler.response_serializer)


_UNREADABLE = "the request is not a message of this method"


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

"""How many large messages are objects at a time."""

import asyncio
from types import SimpleNamespace

import grpc
import pytest

from serving import grpc_services
from serving.grpc_services import ReadMessages

LARGE, SMALL = b"x" * 100, b"x" * 10


class _Call:
    """A call whose one message is there."""

    def __init__(self, data):
        self._data = data

    async def read(self):
        return self._data


async def under_way(messages):
    """How many of these calls a server parses and begins to answer before any is answered."""
    parsed, may_end = [], asyncio.Event()

    async def answer(message, _):
        await may_end.wait()
        return message

    handler = grpc.unary_unary_rpc_method_handler(answer, lambda data: parsed.append(data) or data)

    async def find(_):
        return handler

    method = await ReadMessages().intercept_service(find, SimpleNamespace())
    calls = [asyncio.create_task(method.stream_unary(None, _Call(data))) for data in messages]
    for _ in range(100):
        await asyncio.sleep(0)
    begun = len(parsed)
    may_end.set()
    assert await asyncio.gather(*calls) == messages
    return begun


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([LARGE] * 5, 2, id="large"),
        pytest.param([SMALL] * 5, 5, id="small"),
        pytest.param([LARGE] * 5 + [SMALL] * 5, 7, id="small ones pass"),
    ],
)
def test_large_messages_are_parsed_as_others_are_answered(messages, expected, monkeypatch):
    monkeypatch.setattr(grpc_services, "LARGE_BYTES", 50)
    monkeypatch.setattr(grpc_services, "MOST_LARGE", 2)

    assert asyncio.run(under_way(messages)) == expected

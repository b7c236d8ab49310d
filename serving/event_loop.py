"""The event loop on which the gRPC servers of a process live, in a thread of its own.

gRPC wakes every loop of a process for the events of any of them: one is enough for all servers.
It is uvloop's, which takes less time for a request than asyncio's own.
"""

import asyncio
import functools
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts a coroutine on the loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, name="event_loop", daemon=True).start()
    return loop

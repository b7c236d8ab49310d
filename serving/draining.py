"""The end of a gRPC server under load: every call is answered, or refused with UNAVAILABLE.

gRPC cancels the calls that reach a server while it shuts down, and a caller cannot tell that from
a call that was begun. So new calls are held first, until no more arrive: a caller that sends one
call after the other has its next one held. Then the server shuts down, which sends callers
elsewhere, and what is held is refused.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from serving.errors import STOPPING, UnavailableError

# No call has arrived for so long: every caller has one held, or sends none. But not for ever.
_QUIET_S, _LONGEST_S = 0.1, 1.0
_LOOK_S = 0.01
_LAST_ANSWERS_S = 0.5


class Gate:
    """What calls pass on their way in. Of the event loop alone."""

    def __init__(self) -> None:
        """Is open."""
        self._is_open = True
        self._is_refusing = asyncio.Event()
        self._num_inside = 0
        self._last_arrival_s = 0.0

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Lets a call in.

        Raises:
            UnavailableError: If the server stops; once it has begun to.
        """
        self._last_arrival_s = time.monotonic()
        if not self._is_open:
            await self._is_refusing.wait()
            raise UnavailableError(STOPPING)
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    async def stop(self, server: grpc.aio.Server, grace_s: float) -> None:
        """Closes the gate and stops the server.

        Args:
            server: Its calls pass the gate, all but those that may be cancelled.
            grace_s: How long calls inside may still take; then they are cancelled.
        """
        end_s = time.monotonic() + grace_s
        self._is_open = False
        self._last_arrival_s = time.monotonic()
        longest_s = time.monotonic() + min(grace_s, _LONGEST_S)
        while time.monotonic() < min(longest_s, self._last_arrival_s + _QUIET_S):
            await asyncio.sleep(_LOOK_S)
        stopped = asyncio.create_task(server.stop(max(0.0, end_s - time.monotonic())))
        await asyncio.sleep(0)  # It has begun to shut down.
        self._is_refusing.set()
        while self._num_inside and not stopped.done():
            await asyncio.sleep(_LOOK_S)
        await asyncio.wait({stopped}, timeout=_LAST_ANSWERS_S)
        await server.stop(None)  # Watches of the health would be waited for until the end.
        await stopped

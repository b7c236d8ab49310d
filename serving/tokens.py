"""Bearer tokens: who may ask a server, where it listens to more than its own machine."""

import hmac
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tfrs_twotower.schema import UsageError

AUTHORIZATION = "authorization"
REFUSAL = (
    "a request needs the header `authorization: Bearer TOKEN`, with a token that is known here"
)
_SCHEME = "bearer "
_HEALTH = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"
_SHORTEST = 16  # Characters; what is shorter can be guessed.


class Tokens:
    """The tokens that a server takes."""

    def __init__(self, tokens: Collection[str]) -> None:
        """Takes the tokens; several, so that one can be replaced without a pause."""
        self._tokens = [token.encode() for token in tokens]

    def admit(self, authorization: str | None) -> bool:
        """Whether the value of the header `authorization` names one of them.

        All are compared, in a time that does not tell how much of one was right.
        """
        value = authorization or ""
        if value[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = value[len(_SCHEME) :].strip().encode()
        return any([hmac.compare_digest(given, token) for token in self._tokens])


def read_tokens(path: str | Path) -> Tokens:
    """Reads a file with a token a line; empty lines do not count.

    Raises:
        UsageError: If it cannot be read, has no token, or one that is short or not ASCII.
    """
    return Tokens(_lines(path))


def read_token(path: str | Path) -> str:
    """The first token of such a file, for a client to send.

    Raises:
        UsageError: See `read_tokens`.
    """
    return _lines(path)[0]


def _lines(path: str | Path) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the token file {path}: {error}") from error
    if not lines:
        raise UsageError(f"{path} has no token: write one a line, such as `openssl rand -hex 32`")
    if any(len(token) < _SHORTEST or not token.isascii() for token in lines):
        raise UsageError(f"{path}: a token must have at least {_SHORTEST} characters, all ASCII")
    return lines


class NeedToken(grpc.aio.ServerInterceptor):
    """Refuses calls without a known token; health checks need none."""

    def __init__(self, tokens: Tokens) -> None:
        """Takes the tokens that are known."""
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, or one that refuses before the message is read."""
        given = dict(handler_call_details.invocation_metadata).get(AUTHORIZATION)
        if handler_call_details.method.startswith(_HEALTH) or self._tokens.admit(given):
            return await continuation(handler_call_details)
        return _REFUSE


async def _refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSAL)


# Of a stream, since the one message of other methods is read before the handler is called.
_REFUSE = grpc.stream_unary_rpc_method_handler(_refuse)

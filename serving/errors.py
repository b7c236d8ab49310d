"""What serving raises.

UserError (tfrs_twotower.schema)
├── LoadError                       a model that cannot be served, a server that cannot start
└── ServingError                    a request without an answer; `status` is its gRPC status
    ├── InvalidRequestError         INVALID_ARGUMENT, OUT_OF_RANGE: an input is wrong
    ├── SignatureNotFoundError      FAILED_PRECONDITION: the model has no such signature
    ├── ModelNotFoundError          NOT_FOUND: no such model, or no such version or label of it
    ├── OverloadedError             RESOURCE_EXHAUSTED: too many requests, or too large a one
    ├── DeadlineError               DEADLINE_EXCEEDED
    ├── UnavailableError            UNAVAILABLE: no server there, or one that is stopping
    ├── UnimplementedError          UNIMPLEMENTED
    ├── UnauthenticatedError        UNAUTHENTICATED, PERMISSION_DENIED: no token that admits
    └── ServerFaultError            every other status: look into the server's log

The server raises these and sends their status; the client turns a status back into them.
"""

from http import HTTPStatus

import grpc

from tfrs_twotower.schema import UserError


class LoadError(UserError):
    """A version folder or a configuration that cannot be served."""


class ServingError(UserError):
    """A request that got no answer.

    Attributes:
        status: The gRPC status.
        model: `name`, `name/version` or `name@label` where the request named one, else "".
    """

    status: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, *, model: str = "") -> None:
        """Tells `message`, one or two lines, to the caller."""
        super().__init__(message)
        self.model = model


class InvalidRequestError(ServingError):
    """An input, an output filter or a model spec that the model cannot answer to."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class SignatureNotFoundError(ServingError):
    """The model has no signature of that name."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ModelNotFoundError(ServingError):
    """No such model, or no such version or label of it, is being served."""

    status = grpc.StatusCode.NOT_FOUND


class OverloadedError(ServingError):
    """The server refused the request to protect itself; trying again at once makes it worse."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineError(ServingError):
    """The answer did not come within the caller's time limit."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class UnavailableError(ServingError):
    """No server answers there, or it is stopping."""

    status = grpc.StatusCode.UNAVAILABLE


class UnimplementedError(ServingError):
    """A call that this server does not offer."""

    status = grpc.StatusCode.UNIMPLEMENTED


class UnauthenticatedError(ServingError):
    """The caller's token is lacking, not known, or does not allow the call."""

    status = grpc.StatusCode.UNAUTHENTICATED


class ServerFaultError(ServingError):
    """The server failed in a way that the request did not cause."""

    status = grpc.StatusCode.INTERNAL


STOPPING = "the server is stopping: ask another one, or later"
INTERNAL_FAULT = "internal error: see the server's log"
"""All that a caller is told of an unexpected failure."""

_BY_STATUS: dict[grpc.StatusCode, type[ServingError]] = {
    **{error.status: error for error in ServingError.__subclasses__()},
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
}
_STATUS_OF_NUMBER = {status.value[0]: status for status in grpc.StatusCode}

HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
"""TF Serving's HTTP code of each status; the others are 500."""


def from_status(status: grpc.StatusCode | int, message: str, *, model: str = "") -> ServingError:
    """The exception that stands for a status.

    Args:
        status: A gRPC status, or its number; TensorFlow's error codes are the same numbers.
        message: One or two lines for the caller.
        model: See `ServingError`.
    """
    if isinstance(status, int):
        status = _STATUS_OF_NUMBER.get(status, grpc.StatusCode.UNKNOWN)
    error = _BY_STATUS.get(status, ServerFaultError)(message, model=model)
    error.status = status
    return error

"""One exception a status, on both ends of the wire."""

import grpc
import pytest
import tensorflow as tf

from serving import errors
from tfrs_twotower.schema import UserError


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(grpc.StatusCode.NOT_FOUND, errors.ModelNotFoundError, id="not found"),
        pytest.param(grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError, id="invalid"),
        pytest.param(grpc.StatusCode.OUT_OF_RANGE, errors.InvalidRequestError, id="range"),
        pytest.param(grpc.StatusCode.UNAVAILABLE, errors.UnavailableError, id="unavailable"),
        pytest.param(grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError, id="no token"),
        pytest.param(grpc.StatusCode.PERMISSION_DENIED, errors.UnauthenticatedError, id="denied"),
        pytest.param(grpc.StatusCode.DATA_LOSS, errors.ServerFaultError, id="any other"),
    ],
)
def test_a_status_becomes_its_exception_and_is_kept(status, expected):
    error = errors.from_status(status, "why", model="retrieval")

    assert type(error) is expected
    assert (error.status, str(error), error.model) == (status, "why", "retrieval")


def test_tensorflow_error_codes_are_statuses():
    error = errors.from_status(tf.errors.INVALID_ARGUMENT, "why")

    assert isinstance(error, errors.InvalidRequestError)


def test_every_serving_error_can_be_shown_to_a_user():
    assert issubclass(errors.ServingError, UserError)
    assert issubclass(errors.LoadError, UserError)


@pytest.mark.parametrize("status", grpc.StatusCode)
def test_every_status_has_the_http_code_that_tf_serving_gives(status):
    """`tensorflow_serving/util/net_http` maps these; the others are faults of the server."""
    codes = {
        "INVALID_ARGUMENT": 400,
        "FAILED_PRECONDITION": 400,
        "OUT_OF_RANGE": 400,
        "NOT_FOUND": 404,
        "RESOURCE_EXHAUSTED": 429,
        "UNIMPLEMENTED": 501,
        "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504,
    }

    assert errors.HTTP_STATUS.get(status) == codes.get(status.name)

"""TF Serving's gRPC services, on the stubs of `tensorflow-serving-api`."""

import logging
from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.core import Core
from serving.errors import INTERNAL_FAULT, ServingError

_LOG = logging.getLogger(__name__)

# A caller without a deadline has one of about 292 years; a wait of that length overflows.
_LONGEST_WAIT_S = 86400.0


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata."""

    def __init__(self, core: Core) -> None:
        """Offers what `core` answers."""
        self._core = core

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See `Core.predict`."""
        remaining_s = context.time_remaining()
        timeout_s = None if remaining_s is None else min(remaining_s, _LONGEST_WAIT_S)
        return _answer(context, lambda: self._core.predict(request, timeout_s))

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See `Core.metadata`."""
        return _answer(context, lambda: self._core.metadata(request))

    def Classify(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered."""
        _not_offered(context)

    def Regress(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered."""
        _not_offered(context)

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered."""
        _not_offered(context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus."""

    def __init__(self, core: Core) -> None:
        """Offers what `core` answers."""
        self._core = core

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:
        """See `Core.status`."""
        return _answer(context, lambda: self._core.status(request))

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> None:
        """Not offered: a request must not name folders to open."""
        _not_offered(context)


def _answer(context: grpc.ServicerContext, answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except ServingError as error:
        context.abort(error.status, str(error))
    except Exception:
        _LOG.exception("a gRPC request failed")
        context.abort(grpc.StatusCode.INTERNAL, INTERNAL_FAULT)


def _not_offered(context: grpc.ServicerContext) -> None:
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        "this server offers Predict, GetModelMetadata and GetModelStatus",
    )

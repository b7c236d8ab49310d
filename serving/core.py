"""What a model server answers, whatever wire the question came by."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.admission import Admission
from serving.batching import Batcher
from serving.errors import InvalidRequestError, ServingError
from serving.loading import Servable
from serving.metrics import Metrics
from serving.predict import Execute, Limits, predict, run
from serving.servables import Servables
from serving.tensors import Array

SIGNATURE_DEF = "signature_def"


class Core:
    """Predict, GetModelMetadata and GetModelStatus on a set of servables."""

    def __init__(
        self,
        servables: Servables,
        admission: Admission,
        limits: Limits,
        batcher: Batcher | None = None,
    ) -> None:
        """Answers from `servables`, within `admission` and `limits`, merged by `batcher`."""
        self._servables = servables
        self._admission = admission
        self._limits = limits
        self._batcher = batcher
        self._metrics = Metrics()

    def predict(self, request: Any, timeout_s: float | None) -> Any:
        """Answers a `PredictRequest` with a `PredictResponse`.

        Args:
            request: The request.
            timeout_s: How long the caller still waits; None: for ever.

        Raises:
            ServingError: See `serving.predict`; OverloadedError and DeadlineError of `Admission`.
        """
        with self._answering(request.model_spec, "GRPC", timeout_s) as servable:
            return predict(servable, request, self._limits, self._execute(timeout_s))

    def predict_arrays(
        self,
        model_spec: Any,
        inputs_of: Callable[[Servable], tuple[str, dict[str, Array]]],
        timeout_s: float | None,
    ) -> dict[str, Array]:
        """Answers with arrays what was asked with something else than protos.

        Args:
            model_spec: The `ModelSpec` asked.
            inputs_of: Returns the name of the signature and its inputs, given the version.
            timeout_s: As of `predict`.
        """
        with self._answering(model_spec, "REST", timeout_s) as servable:
            key, inputs = inputs_of(servable)
            return run(servable, key, inputs, self._limits, self._execute(timeout_s))

    def _execute(self, timeout_s: float | None) -> Execute:
        """What runs a signature, within `timeout_s` from now."""
        if self._batcher is None:
            return Servable.run
        return partial(self._batcher.run, timeout_s=timeout_s)

    @contextmanager
    def _answering(
        self, model_spec: Any, entrypoint: str, timeout_s: float | None
    ) -> Iterator[Servable]:
        """Admits a request, lends it its version, and counts how it ended."""
        started_s = time.perf_counter()
        name, version, label = _spec(model_spec)
        status = grpc.StatusCode.OK
        try:
            with (
                self._admission.enter(timeout_s),
                self._servables.use(name, version, label) as servable,
            ):
                yield servable
        except ServingError as error:
            status = error.status
            raise
        except Exception:
            status = grpc.StatusCode.INTERNAL
            raise
        finally:
            known = name if name in self._servables.names else ""
            seconds = time.perf_counter() - started_s
            self._metrics.record(known, status.name, entrypoint, seconds)

    def metadata(self, request: Any) -> Any:
        """Answers a `GetModelMetadataRequest` with the signatures of the version."""
        if not request.HasField("model_spec"):
            raise InvalidRequestError("Missing ModelSpec")
        if not request.metadata_field:
            raise InvalidRequestError(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise InvalidRequestError(f"Metadata field {name} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._servables.use(*_spec(request.model_spec)) as servable:
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            for key, signature_def in servable.signature_defs.items():
                signatures.signature_def[key].CopyFrom(signature_def)
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response

    def status(self, request: Any) -> Any:
        """Answers a `GetModelStatusRequest` with the versions known, newest first."""
        if not request.HasField("model_spec"):
            raise InvalidRequestError("Missing ModelSpec")
        name, version, label = _spec(request.model_spec)
        if label is not None:
            version = self._servables.version_of(name, label)
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, status in sorted(self._servables.statuses(name, version).items(), reverse=True):
            entry = response.model_version_status.add(version=number, state=int(status.state))
            if status.error:
                entry.status.error_code = _UNKNOWN
                entry.status.error_message = status.error
            else:
                entry.status.SetInParent()
        return response

    def metrics(self) -> str:
        """The page that Prometheus reads."""
        return self._metrics.render(self._admission.num_taken, self._servables.available())


_UNKNOWN = 2  # tensorflow.error.UNKNOWN, as TF Serving says of a version that failed to load.


def _spec(model_spec: Any) -> tuple[str, int | None, str | None]:
    """Name, version and label of a `ModelSpec`."""
    choice = model_spec.WhichOneof("version_choice")
    return (
        model_spec.name,
        model_spec.version.value if choice == "version" else None,
        model_spec.version_label if choice == "version_label" else None,
    )

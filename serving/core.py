"""What a model server answers, whatever wire the question came by."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from serving.batching import Outputs
from serving.errors import DeadlineError, InvalidRequestError, ServingError
from serving.loading import Servable
from serving.metrics import Asked, Metrics
from serving.predict import DEFAULT_SIGNATURE, Call, Limits, checked_call, checked_inputs
from serving.request_log import RequestLog
from serving.runner import Runner
from serving.servables import Servables
from serving.tensors import Array, write

SIGNATURE_DEF = "signature_def"

# Larger requests are read in a thread: the event loop has others to answer meanwhile.
_LARGE_BYTES = 64 * 1024

# A caller that cancels by its own clock does so before the server's deadline, which begins when the
# request has come.
_LATE_SHARE = 0.9


class Core:
    """Predict, GetModelMetadata and GetModelStatus on a set of servables."""

    def __init__(
        self,
        servables: Servables,
        runner: Runner,
        limits: Limits,
        metrics: Metrics,
        request_log: RequestLog,
    ) -> None:
        """Answers from `servables`, run by `runner`, within `limits`.

        `metrics` counts the answers, `request_log` keeps them.
        """
        self._servables = servables
        self._runner = runner
        self._limits = limits
        self._request_log = request_log
        self._metrics = metrics

    async def predict(self, request: Any, timeout_s: float | None) -> Any:
        """Answers a `PredictRequest` with a `PredictResponse`.

        Args:
            request: The request.
            timeout_s: How long the caller still waits, who then cancels; None: for ever.

        Raises:
            ServingError: See `checked_call`; OverloadedError of `Runner`.
        """
        with self._answering(request.model_spec, "GRPC", timeout_s) as ongoing:
            servable = ongoing.servable
            ongoing.signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if request.ByteSize() > _LARGE_BYTES:
                call = await asyncio.to_thread(checked_call, servable, request, self._limits)
            else:
                call = checked_call(servable, request, self._limits)
            answer = self._submit(ongoing, call.inputs, call.response)
            response = await asyncio.wrap_future(answer)
        if settings := self._servables.logging_of(servable.name):
            # In the loop's next round: the answer leaves in this one.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._request_log.add, settings, request, response)
        return response

    def predict_arrays(
        self,
        model_spec: Any,
        inputs_of: Callable[[Servable], tuple[str, dict[str, Array]]],
        timeout_s: float | None,
        once_sent: ExitStack,
    ) -> dict[str, Array]:
        """Answers with arrays what was asked with something else than protos.

        Args:
            model_spec: The `ModelSpec` asked.
            inputs_of: Returns the name of the signature and its inputs, given the version.
            timeout_s: How long the caller waits; None: for ever.
            once_sent: Gets what is left to do, to be closed when the answer has been sent.

        Raises:
            ServingError: As of `predict`; DeadlineError if the answer does not come in time.
        """
        with self._answering(model_spec, "REST", timeout_s) as ongoing:
            servable = ongoing.servable
            name, given = inputs_of(servable)
            ongoing.signature = name
            inputs = checked_inputs(servable, name, given, self._limits)
            answer = self._submit(ongoing, inputs, lambda outputs: outputs)
            try:
                outputs = answer.result(timeout_s)
            except TimeoutError as error:
                answer.cancel()
                raise DeadlineError("the deadline passed before there was an answer") from error
        if settings := self._servables.logging_of(servable.name):
            call = Call(servable, name, given, list(outputs))
            once_sent.callback(
                self._request_log.add_made,
                settings,
                lambda: _request(model_spec, name, given),
                lambda: call.response(outputs),
                time.time(),
            )
        return outputs

    def _submit(
        self, ongoing: "_Ongoing", inputs: dict[str, Array], respond: Callable[[Outputs], Any]
    ) -> Future[Any]:
        """Hands a request to the runner, and with it the lease of its version.

        A run that has begun goes on when its caller leaves; the version must not be closed before.
        """
        answer = self._runner.submit(ongoing.servable, ongoing.signature, inputs, respond)
        until_done = ongoing.lease.pop_all()
        answer.add_done_callback(lambda _: until_done.close())
        return answer

    @contextmanager
    def _answering(
        self, model_spec: Any, entrypoint: str, timeout_s: float | None
    ) -> Iterator["_Ongoing"]:
        """Lends a request its version until the lease is closed, and counts how it ended."""
        started_s = time.perf_counter()
        name, version, label = _spec(model_spec)
        status = grpc.StatusCode.OK
        ongoing: _Ongoing | None = None
        try:
            with ExitStack() as lease:
                servable = lease.enter_context(self._servables.use(name, version, label))
                ongoing = _Ongoing(servable, lease)
                yield ongoing
        except ServingError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            waited_s = time.perf_counter() - started_s
            is_late = timeout_s is not None and waited_s >= _LATE_SHARE * timeout_s
            status = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise
        except Exception:
            status = grpc.StatusCode.INTERNAL
            raise
        finally:
            model = name if name in self._servables.names else ""
            version_asked, signature = ongoing.known() if ongoing else ("", "")
            asked = Asked(model, version_asked, signature, entrypoint, status.name)
            self._metrics.record(asked, time.perf_counter() - started_s)

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
        return self._metrics.render(
            self._runner.num_requests, self._servables.available(), self._request_log.counts()
        )


@dataclass
class _Ongoing:
    """A request that is being answered.

    Attributes:
        servable: The version that answers.
        lease: Ends the use of it.
        signature: The name asked for, once it is known.
    """

    servable: Servable
    lease: ExitStack
    signature: str = ""

    def known(self) -> tuple[str, str]:
        """Version and signature; no signature that the version does not have."""
        has_it = self.signature in self.servable.signatures
        return str(self.servable.version), self.signature if has_it else ""


_UNKNOWN = 2  # tensorflow.error.UNKNOWN, as TF Serving says of a version that failed to load.


def _request(model_spec: Any, signature: str, inputs: dict[str, Array]) -> Any:
    """The `PredictRequest` that asks the same."""
    request = predict_pb2.PredictRequest()
    request.model_spec.CopyFrom(model_spec)
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        write(array, request.inputs[name])
    return request


def _spec(model_spec: Any) -> tuple[str, int | None, str | None]:
    """Name, version and label of a `ModelSpec`."""
    choice = model_spec.WhichOneof("version_choice")
    return (
        model_spec.name,
        model_spec.version.value if choice == "version" else None,
        model_spec.version_label if choice == "version_label" else None,
    )

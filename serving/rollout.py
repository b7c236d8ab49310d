"""Waits for running servers while labels move; see `tfrs_twotower.publishing.versions`."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.access import OPEN, Access
from tfrs_twotower.schema import UserError

LONGEST_S = 600.0
_LOOK_S, _ANSWER_S = 0.5, 5.0
# For answers that waiting does not change.
_TOKEN = "Give the file with its token by --token_file."
CURES = {
    grpc.StatusCode.UNAUTHENTICATED: _TOKEN,
    grpc.StatusCode.PERMISSION_DENIED: _TOKEN,
    grpc.StatusCode.UNIMPLEMENTED: "Name the gRPC port of a model server.",
}


class Pause:
    """Gives servers that cannot be asked a stated time for each step."""

    def __init__(self, seconds: float, tell: Callable[[str], None]) -> None:
        """Waits `seconds` each time, and tells so."""
        self._seconds, self._tell = seconds, tell

    def until_loaded(self, versions: Mapping[str, Collection[int]]) -> None:
        """Waits."""
        self._tell(f"waiting {self._seconds:g} s for servers to load {_listed(versions)}")
        time.sleep(self._seconds)

    def until_moved(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Waits."""
        self._tell(f"waiting {self._seconds:g} s for servers to follow the labels")
        time.sleep(self._seconds)


class Servers:
    """Asks each server over gRPC until it has followed.

    Models that a server does not have are passed over: `models.stock.config` lacks `retrieval`.
    """

    def __init__(
        self,
        targets: Sequence[str],
        longest_s: float,
        tell: Callable[[str], None],
        access: Access = OPEN,
    ) -> None:
        """Does not connect yet.

        Args:
            targets: `HOST:PORT` of the gRPC port of each server.
            longest_s: How long to wait for a step.
            tell: Told what is waited for.
            access: To each of them.
        """
        self._targets, self._longest_s, self._tell = targets, longest_s, tell
        self._access = access

    def until_loaded(self, versions: Mapping[str, Collection[int]]) -> None:
        """Waits until every server has loaded these versions of its models.

        Raises:
            UserError: If one cannot load a version, or does not in time.
        """
        what = f"to load {_listed(versions)}"
        self._wait(what, lambda asked: _missing_versions(asked, versions))

    def until_moved(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Waits until the labels of each server's models stand for these versions.

        Raises:
            UserError: If they do not in time.
        """
        self._wait("to follow the labels", lambda asked: _unmoved_labels(asked, labels))

    def _wait(self, what: str, left_of: Callable[["_Asked"], str]) -> None:
        end_s = time.monotonic() + self._longest_s
        for target in self._targets:
            self._tell(f"waiting for {target} {what}")
            with self._access.channel(target) as channel:
                asked = _Asked(channel, self._access.metadata)
                while left := _left(target, left_of, asked):
                    if time.monotonic() > end_s:
                        raise UserError(
                            f"{target} did not follow within {self._longest_s:g} s: {left}\nIs it "
                            "running with --model_config_file_poll_wait_seconds? Its log has why."
                        )
                    time.sleep(_LOOK_S)


class _Asked(NamedTuple):
    """A server."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...]


def _left(target: str, left_of: Callable[[_Asked], str], asked: _Asked) -> str:
    """What is left to wait for; a server that cannot be reached may be starting.

    Raises:
        UserError: If waiting would not help.
    """
    try:
        return left_of(asked)
    except grpc.RpcError as error:
        said = f"{error.code().name}: {error.details()}"
        if error.code() in CURES:
            raise UserError(f"{target} answers {said}\n{CURES[error.code()]}") from error
        return said
    except UserError as error:
        raise UserError(f"{target}: {error}") from error


def _missing_versions(asked: _Asked, versions: Mapping[str, Collection[int]]) -> str:
    statuses = {model: _statuses(asked, model) for model in versions}
    if not any(statuses.values()):
        return f"it serves none of {', '.join(versions)}"
    missing = []
    for model, found in statuses.items():
        for version in versions[model] if found else ():
            status = found.get(version)
            if status and status.state == status.END and status.status.error_code:
                message = status.status.error_message
                raise UserError(f"{model} version {version} cannot be loaded: {message}")
            if not status or status.state != status.AVAILABLE:
                missing.append(f"{model} version {version}")
    return f"not loaded yet: {', '.join(missing)}" if missing else ""


def _unmoved_labels(asked: _Asked, labels: Mapping[str, Mapping[str, int]]) -> str:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(asked.channel)
    unmoved = []
    for model, versions in labels.items():
        for label, version in versions.items() if _statuses(asked, model) else ():
            request = get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec={"name": model, "version_label": label}, metadata_field=["signature_def"]
            )
            answer = stub.GetModelMetadata(request, timeout=_ANSWER_S, metadata=asked.metadata)
            found = answer.model_spec.version.value
            if found != version:
                unmoved.append(f"{label} of {model} is version {found}, not {version}")
    return ", ".join(unmoved)


def _statuses(asked: _Asked, model: str) -> dict[int, Any]:
    """The `ModelVersionStatus` of each version; none of a model that the server does not have."""
    stub = model_service_pb2_grpc.ModelServiceStub(asked.channel)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": model})
    try:
        answer = stub.GetModelStatus(request, timeout=_ANSWER_S, metadata=asked.metadata)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        return {}
    return {status.version: status for status in answer.model_version_status}


def _listed(versions: Mapping[str, Collection[int]]) -> str:
    numbers = sorted({number for wanted in versions.values() for number in wanted})
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

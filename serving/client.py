"""A client for the served models: recommend, score and embed over gRPC."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ServingError,
    SignatureNotFoundError,
    UnavailableError,
    from_status,
)
from serving.queries import Query, as_rows, build_inputs, per_row
from serving.tensors import Array, Signature, TensorSpec, to_array, to_proto
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.models_layout import RETRIEVAL_MODELS
from tfrs_twotower.schema.requests import refusal
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN_CANDIDATE_SCORE = float(np.finfo(np.float32).min)
"""What `RetrievalClient.score` gives for an id that the corpus does not have."""

# What a model that keeps user and context apart takes in place of the user's features.
_USER_EMBEDDING = "user_embedding"

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, repr=False)
class Recommendations(Tabular):
    """The answer to one query, best first."""

    candidate_ids: list[str]  # At most k, fewer where fewer are eligible.
    scores: list[float]  # Cosines, one a candidate.
    model_version: int
    num_excluded: int = 0  # Candidates that the request told to leave out.

    @property
    def title(self) -> str:
        """How many candidates, how many were left out, of which version."""
        return (
            f"{len(self.candidate_ids)} candidates, {self.num_excluded:,} excluded, "
            f"model version {self.model_version}"
        )

    def to_frame(self) -> "pd.DataFrame":
        """A row a candidate: `candidate_id` and `score`, by rank from 1."""
        import pandas as pd

        ranks = pd.RangeIndex(1, len(self.candidate_ids) + 1, name="rank")
        columns = {"candidate_id": self.candidate_ids, "score": self.scores}
        return pd.DataFrame(columns, index=ranks)


class RetrievalClient:
    """Asks a model server; a context manager that closes its channel.

    A query is a mapping from feature name to value: a scalar, a list, or None for "not known".
    Every feature of the signature must be named, so that a misspelt one is told rather than
    treated as unknown; `query_features` lists them. Thread-safe: share one client, it keeps one
    connection.

    Example:
        with RetrievalClient("127.0.0.1:8500") as client:
            for answer in client.recommend({"user_id": "42", "history": ["7", "9"]}, k=10):
                print(answer.candidate_ids, answer.scores)
    """

    def __init__(
        self,
        target: str,
        *,
        model: str | None = None,
        query_tower: str = "query_tower",
        version: int | None = None,
        version_label: str | None = None,
        timeout_s: float = 5.0,
        max_message_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        """Opens a channel; nothing is sent yet.

        Args:
            target: `HOST:PORT` of the server's gRPC port.
            model: The model that `recommend` and `score` ask; None: `retrieval`, and of a server
                without it `retrieval_exact`.
            query_tower: The model that `embed` asks.
            version: Which version to ask; None: the newest.
            version_label: Which label to ask, for example "stable"; None: as `version` says.
            timeout_s: The longest that a call waits for its answer, retries included.
            max_message_bytes: The largest answer taken.

        Raises:
            UsageError: If version and label are both given.
        """
        if version is not None and version_label is not None:
            raise UsageError("give a version or a version label, not both")
        self._target = target
        self._models = RETRIEVAL_MODELS if model is None else (model,)
        self._asked: str | None = None
        self._query_tower = query_tower
        self._version = version
        self._version_label = version_label
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.service_config", _retries(timeout_s)),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # A proxy of the environment cannot reach a server on this machine.
                ("grpc.enable_http_proxy", int(target.rpartition(":")[0] not in _LOOPBACK)),
            ],
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._signatures: dict[str, dict[str, Signature]] = {}
        self._lock = threading.Lock()

    def recommend(
        self,
        queries: Query | Sequence[Query],
        k: int = 10,
        *,
        exclude_ids: Sequence[str] | Sequence[Sequence[str]] = (),
        allow_ids: Sequence[str] | Sequence[Sequence[str]] = (),
        **rules: Any,
    ) -> list[Recommendations]:
        """Finds the best candidates of each query.

        Args:
            queries: One query, or several. Each may name `user_embedding`, a vector kept from the
                signature `user` of the query tower, in place of the user's features.
            k: How many candidates each query gets.
            exclude_ids: Candidates never to answer with: one list for all queries, or one each.
            allow_ids: The only candidates to answer with, likewise; empty: no restriction.
            **rules: Other optional inputs of the signature, one value for all queries or one each
                (for list inputs: one list for all, or one each).

        Returns:
            One answer a query.

        Raises:
            ServingError: Of `serving.errors`: what is wrong with the query, the server or the time.
        """
        rows = as_rows(queries)
        optional = {"k": k, **rules}
        if len(exclude_ids):
            optional["exclude_ids"] = exclude_ids
        if len(allow_ids):
            optional["allow_ids"] = allow_ids
        key = "recommend_joined" if _USER_EMBEDDING in rows[0] else "recommend"
        outputs, version = self._predict(self._asked_model(), key, rows, optional)
        excluded = (
            per_row("exclude_ids", exclude_ids, 1, len(rows))
            if len(exclude_ids)
            else [row.get("exclude_ids") or () for row in rows]
        )
        return [
            Recommendations(
                [candidate_id.decode() for candidate_id in ids[:count]],
                scores[:count].tolist(),
                version,
                len(set(of_row) - {""}),
            )
            for ids, scores, count, of_row in zip(
                outputs["candidate_ids"],
                outputs["scores"],
                outputs["valid_count"],
                excluded,
                strict=True,
            )
        ]

    def score(
        self,
        queries: Query | Sequence[Query],
        candidate_ids: Sequence[str] | Sequence[Sequence[str]],
    ) -> list[list[float]]:
        """Scores given candidates.

        Args:
            queries: One query, or several.
            candidate_ids: One list for all queries, or one each.

        Returns:
            For each query the scores in the order of its candidates;
            `UNKNOWN_CANDIDATE_SCORE` for an id that the corpus does not have.

        Raises:
            ServingError: As of `recommend`.
        """
        rows = as_rows(queries)
        extra = {"candidate_ids": candidate_ids}
        outputs, _ = self._predict(self._asked_model(), "score", rows, extra)
        counts = [len(ids) for ids in per_row("candidate_ids", candidate_ids, 1, len(rows))]
        return [row[:count].tolist() for row, count in zip(outputs["scores"], counts, strict=True)]

    def embed(self, queries: Query | Sequence[Query]) -> Array:
        """Runs the query tower alone.

        Args:
            queries: One query, or several.

        Returns:
            `[num_queries, embedding_dim]` float32, rows of length 1.

        Raises:
            ServingError: As of `recommend`.
        """
        outputs, _ = self._predict(self._query_tower, "serving_default", as_rows(queries), {})
        return outputs["query_embedding"]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a server that is still starting.

        Args:
            timeout_s: How long to wait at most.

        Raises:
            UnavailableError: If it did not come in time.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout_s)
        except grpc.FutureTimeoutError as error:
            raise UnavailableError(
                f"no model server came up at {self._target} within {timeout_s:g} s"
            ) from error

    def query_features(self) -> dict[str, TensorSpec]:
        """The features that a query of `recommend` must name.

        Raises:
            ServingError: If the server cannot be asked.
        """
        signature = self._signature(self._asked_model(), "recommend")
        return {
            name: spec for name, spec in signature.inputs.items() if name not in signature.defaults
        }

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Starts nothing: the first call connects."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the channel."""
        self.close()

    def __repr__(self) -> str:
        """Names the server and the model, never a query."""
        return f"RetrievalClient({self._target!r}, model={' or '.join(self._models)!r})"

    def _predict(
        self, model: str, key: str, rows: Sequence[Query], extra: Mapping[str, Any]
    ) -> tuple[dict[str, Array], int]:
        signature = self._signature(model, key)
        request = predict_pb2.PredictRequest(model_spec=self._spec(model))
        request.model_spec.signature_name = key
        for name, array in build_inputs(signature, rows, extra).items():
            request.inputs[name].CopyFrom(to_proto(array))
        try:
            response = self._call(self._stub.Predict, request)
        except (InvalidRequestError, ModelNotFoundError, SignatureNotFoundError):
            # Perhaps a newer version, with other inputs or of another model: look again next time.
            self._signatures.pop(model, None)
            self._asked = None
            raise
        outputs = {
            name: to_array(proto, max_elements=proto.ByteSize())
            for name, proto in response.outputs.items()
        }
        return outputs, response.model_spec.version.value

    def _asked_model(self) -> str:
        """The first of the models that the server has, found by the first call."""
        with self._lock:
            if self._asked is None:
                self._asked = self._first_served()
            return self._asked

    def _first_served(self) -> str:
        refused = []
        for model in self._models:
            try:
                self._signatures[model] = self._fetch_signatures(model)
            except ModelNotFoundError as error:
                refused.append(error)
            else:
                return model
        raise refused[0]

    def _signature(self, model: str, key: str) -> Signature:
        with self._lock:
            if model not in self._signatures:
                self._signatures[model] = self._fetch_signatures(model)
            signatures = self._signatures[model]
        if key not in signatures:
            raise InvalidRequestError(
                f"model {model} has no signature {key}, it has {', '.join(sorted(signatures))}: "
                "was it exported by `twotower export`?",
                model=model,
            )
        return signatures[key]

    def _fetch_signatures(self, model: str) -> dict[str, Signature]:
        response = self._call(
            self._stub.GetModelMetadata,
            get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=self._spec(model), metadata_field=["signature_def"]
            ),
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return {
            key: Signature.from_proto(signature_def)
            for key, signature_def in signatures.signature_def.items()
            if not key.startswith("__saved_model_")
        }

    def _spec(self, model: str) -> Any:
        spec = model_pb2.ModelSpec(name=model)
        if self._version is not None:
            spec.version.value = self._version
        elif self._version_label is not None:
            spec.version_label = self._version_label
        return spec

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise self._explained(error, request.model_spec) from error

    def _explained(self, error: Any, spec: Any) -> ServingError:
        status, details = error.code(), error.details() or ""
        if status == grpc.StatusCode.UNAVAILABLE:
            message = f"no model server answers at {self._target}: is it running? ({details})"
        elif status == grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{self._target} did not answer within {self._timeout_s:g} s"
        else:
            message = refusal(details)
        return from_status(status, message, model=spec.name)


def _retries(timeout_s: float) -> str:
    """Only a server that cannot be reached is asked again.

    The four waits, 15 times the first and a fifth more by chance, end before the timeout: what the
    last attempt says is told, not that time ran out.
    """
    policy = {
        "maxAttempts": 5,
        "initialBackoff": f"{min(0.1, timeout_s / 30):.9f}s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})

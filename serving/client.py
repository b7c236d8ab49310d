"""Clients for the served models: recommend, score and embed over gRPC, by threads or by asyncio."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import grpc
import numpy as np

from serving.errors import DeadlineError, ServingError, UnavailableError, from_status
from serving.queries import Query
from serving.questions import METHODS, Call, Question, Questions, Recommendations
from serving.tensors import Array, TensorSpec
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.requests import refusal

__all__ = ["UNKNOWN_CANDIDATE_SCORE", "AsyncRetrievalClient", "Recommendations", "RetrievalClient"]

UNKNOWN_CANDIDATE_SCORE = float(np.finfo(np.float32).min)
"""What `RetrievalClient.score` gives for an id that the corpus does not have."""

# What servers and gRPC tell of their state in words alone; the first is the embedded server's.
_LOADING, _REFUSED = "still loading", "Connection refused"
_UNKNOWN_LABEL = "Unrecognized servable version label"

_LOOK_S = 0.1

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

Metadata = Sequence[tuple[str, str]]
T = TypeVar("T")


class _Connection:
    """What both clients share: whom they ask, how long they wait, how errors are told."""

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
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
    ) -> None:
        """Opens a channel; nothing is sent yet.

        Args:
            target: `HOST:PORT` of the server's gRPC port. For several servers a name of gRPC's
                that has several addresses: `dns:///HOST:PORT`, `ipv4:ADDRESS:PORT,ADDRESS:PORT`.
                They are asked in turn, those left out whose health check is not SERVING.
            model: The model that `recommend` and `score` ask; None: the first of `retrieval`,
                `retrieval_stock` and `retrieval_exact` that has the version or label asked for.
            query_tower: The model that `embed` asks.
            version: Which version to ask; None: the newest.
            version_label: Which label to ask, for example "stable"; None: as `version` says.
            timeout_s: The longest that a call of a method takes: all that it sends, and retries.
            max_message_bytes: The largest answer taken.
            credentials: For TLS, such as `grpc.ssl_channel_credentials()`; with the key and
                certificate of the client for mutual TLS. None: no encryption.
            metadata: Sent with each request, such as `[("authorization", "Bearer ...")]`.

        Raises:
            UsageError: If version and label are both given.
        """
        if version is not None and version_label is not None:
            raise UsageError("give a version or a version label, not both")
        self._target = target
        self._timeout_s = timeout_s
        self._metadata = tuple(metadata)
        self._questions = Questions(model, query_tower, version, version_label)
        options = [
            ("grpc.service_config", json.dumps(_service_config(target, timeout_s))),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # By default a channel waits longer after each failed connection, up to two minutes: all
            # attempts of a call would fail on it although the server is there again.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            # A proxy of the environment cannot reach a server on this machine.
            ("grpc.enable_http_proxy", int(target.rpartition(":")[0] not in _LOOPBACK)),
        ]
        self._channel = self._open(target, credentials, options)
        self._methods = {
            method: self._channel.unary_unary(
                method.path,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=method.response.FromString,
            )
            for method in METHODS
        }

    def _open(self, target: str, credentials: grpc.ChannelCredentials | None, options: Any) -> Any:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Names the server and the model, never a query."""
        models = " or ".join(self._questions.models)
        return f"{type(self).__name__}({self._target!r}, model={models!r})"

    def _sent(self, call: Call, end_s: float) -> Any:
        """Starts a call that ends by `end_s`: its response, or an awaitable of it."""
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            raise self._late(call)
        method = self._methods[call.method]
        return method(call.request, timeout=left_s, metadata=self._metadata)

    def _late(self, call: Call) -> DeadlineError:
        message = f"{self._target} did not answer within {self._timeout_s:g} s"
        return DeadlineError(message, model=call.request.model_spec.name)

    def _explained(self, error: Any, call: Call) -> ServingError:
        status, details = error.code(), error.details() or ""
        if status == grpc.StatusCode.DEADLINE_EXCEEDED:
            return self._late(call)
        spec = call.request.model_spec
        message = refusal(details)
        if status == grpc.StatusCode.UNAVAILABLE:
            message = self._unavailable(details)
        elif status == grpc.StatusCode.NOT_FOUND or _UNKNOWN_LABEL in details:
            # Servers refuse a label of a model that they do not have as an invalid argument.
            status = grpc.StatusCode.NOT_FOUND
            message = f"{self._target} does not serve {_shown(spec)} ({details})"
        return from_status(status, message, model=spec.name)

    def _unavailable(self, details: str) -> str:
        if _LOADING in details:
            return f"{self._target} is not ready: {details}"
        if _REFUSED in details:
            return (
                f"no model server answers at {self._target}: is it running, or still starting? "
                "(connection refused)"
            )
        return f"no model server answers at {self._target}: is it running? ({details})"


class RetrievalClient(_Connection):
    """Asks a model server; a context manager that closes its channel.

    A query is a mapping from feature name to value: a scalar, a list, or None for "not known". What
    it does not name is not known; a name that the model does not have is refused;
    `query_features` lists them. Thread-safe: share one client, it keeps one connection.

    Example:
        with RetrievalClient("127.0.0.1:8500") as client:
            answer = client.recommend_one({"user_id": "42", "history": ["7", "9"]}, k=10)
            print(answer.candidate_ids, answer.scores)
    """

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Any
    ) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, credentials, options)

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
        optional = {"k": k, "exclude_ids": exclude_ids, "allow_ids": allow_ids, **rules}
        return self._ask(self._questions.recommend(queries, optional))

    def recommend_one(
        self,
        query: Query,
        k: int = 10,
        *,
        exclude_ids: Sequence[str] = (),
        allow_ids: Sequence[str] = (),
        **rules: Any,
    ) -> Recommendations:
        """Finds the best candidates of one query; see `recommend`."""
        optional = {"k": k, "exclude_ids": exclude_ids, "allow_ids": allow_ids, **rules}
        [answer] = self._ask(self._questions.recommend([query], optional))
        return answer

    def score(
        self,
        queries: Query | Sequence[Query],
        candidate_ids: Sequence[str] | Sequence[Sequence[str]],
    ) -> list[list[float]]:
        """Scores given candidates.

        Args:
            queries: One query, or several. Of the model `similarity` each is a `query_id`, or a
                `query_embedding` in its place.
            candidate_ids: One list for all queries, or one each.

        Returns:
            For each query the scores in the order of its candidates;
            `UNKNOWN_CANDIDATE_SCORE` for an id that the corpus does not have.

        Raises:
            ServingError: As of `recommend`.
        """
        return self._ask(self._questions.score(queries, candidate_ids))

    def embed(self, queries: Query | Sequence[Query]) -> Array:
        """Runs the query tower alone.

        Args:
            queries: One query, or several.

        Returns:
            `[num_queries, embedding_dim]` float32, rows of length 1.

        Raises:
            ServingError: As of `recommend`.
        """
        return self._ask(self._questions.embed(queries))

    def wait_until_ready(self, timeout_s: float) -> None:
        """Waits for a server that is still starting, or loading its models.

        Args:
            timeout_s: How long to wait at most.

        Raises:
            UnavailableError: If it did not come in time.
            ServingError: As of `recommend`, if it is up and does not serve the model.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                self._ask(self._questions.first_served(), end_s)
                return
            except (UnavailableError, DeadlineError) as error:
                if time.monotonic() + _LOOK_S > end_s:
                    raise _not_ready(timeout_s, error) from error
            time.sleep(_LOOK_S)

    def query_features(self) -> dict[str, TensorSpec]:
        """The features that a query of `recommend` may name.

        Raises:
            ServingError: If the server cannot be asked.
        """
        return self._ask(self._questions.query_features())

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        """Starts nothing: the first call connects."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Closes the channel."""
        self.close()

    def _ask(self, question: Question[T], until_s: float = math.inf) -> T:
        end_s = min(time.monotonic() + self._timeout_s, until_s)
        try:
            call = next(question)
            while True:
                try:
                    response = self._sent(call, end_s)
                except grpc.RpcError as error:
                    call = question.throw(self._explained(error, call))
                else:
                    call = question.send(response)
        except StopIteration as stop:
            answer: T = stop.value
            return answer


class AsyncRetrievalClient(_Connection):
    """The same for asyncio; made, used and closed on one event loop.

    Example:
        async with AsyncRetrievalClient("127.0.0.1:8500") as client:
            answer = await client.recommend_one({"user_id": "42"}, k=10)
    """

    def _open(
        self, target: str, credentials: grpc.ChannelCredentials | None, options: Any
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)

    async def recommend(
        self,
        queries: Query | Sequence[Query],
        k: int = 10,
        *,
        exclude_ids: Sequence[str] | Sequence[Sequence[str]] = (),
        allow_ids: Sequence[str] | Sequence[Sequence[str]] = (),
        **rules: Any,
    ) -> list[Recommendations]:
        """See `RetrievalClient.recommend`."""
        optional = {"k": k, "exclude_ids": exclude_ids, "allow_ids": allow_ids, **rules}
        return await self._ask(self._questions.recommend(queries, optional))

    async def recommend_one(
        self,
        query: Query,
        k: int = 10,
        *,
        exclude_ids: Sequence[str] = (),
        allow_ids: Sequence[str] = (),
        **rules: Any,
    ) -> Recommendations:
        """See `RetrievalClient.recommend_one`."""
        optional = {"k": k, "exclude_ids": exclude_ids, "allow_ids": allow_ids, **rules}
        [answer] = await self._ask(self._questions.recommend([query], optional))
        return answer

    async def score(
        self,
        queries: Query | Sequence[Query],
        candidate_ids: Sequence[str] | Sequence[Sequence[str]],
    ) -> list[list[float]]:
        """See `RetrievalClient.score`."""
        return await self._ask(self._questions.score(queries, candidate_ids))

    async def embed(self, queries: Query | Sequence[Query]) -> Array:
        """See `RetrievalClient.embed`."""
        return await self._ask(self._questions.embed(queries))

    async def wait_until_ready(self, timeout_s: float) -> None:
        """See `RetrievalClient.wait_until_ready`."""
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                await self._ask(self._questions.first_served(), end_s)
                return
            except (UnavailableError, DeadlineError) as error:
                if time.monotonic() + _LOOK_S > end_s:
                    raise _not_ready(timeout_s, error) from error
            await asyncio.sleep(_LOOK_S)

    async def query_features(self) -> dict[str, TensorSpec]:
        """See `RetrievalClient.query_features`."""
        return await self._ask(self._questions.query_features())

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        """Starts nothing: the first call connects."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Closes the channel."""
        await self.close()

    async def _ask(self, question: Question[T], until_s: float = math.inf) -> T:
        end_s = min(time.monotonic() + self._timeout_s, until_s)
        try:
            call = next(question)
            while True:
                try:
                    response = await self._sent(call, end_s)
                except grpc.RpcError as error:
                    call = question.throw(self._explained(error, call))
                else:
                    call = question.send(response)
        except StopIteration as stop:
            answer: T = stop.value
            return answer


def _not_ready(timeout_s: float, error: ServingError) -> UnavailableError:
    return UnavailableError(f"no model server was ready within {timeout_s:g} s: {error}")


def _shown(spec: Any) -> str:
    """What a `ModelSpec` asks for, in words."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
        return f"version {spec.version.value} of model {spec.name}"
    if choice == "version_label":
        return f"a version labelled {spec.version_label} of model {spec.name}"
    return f"model {spec.name}"


def _service_config(target: str, timeout_s: float) -> dict[str, Any]:
    """Only a server that cannot be reached, or is stopping, is asked again; of several another one.

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
    config: dict[str, Any] = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    if "," in target or target.startswith("dns:"):
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": ""}
    return config

"""The embedded model server as an object: listens, loads its models, answers, stops."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import event_loop
from serving.batching import BatchingOptions, Task
from serving.core import Core
from serving.draining import Gate
from serving.errors import LoadError
from serving.grpc_services import ModelService, PredictionService, ReadMessages
from serving.health import Health
from serving.loading import Servable, load
from serving.metrics import Metrics
from serving.model_config import ModelConfig, read_models_config
from serving.post_score import PostScore, adjusted_outputs
from serving.predict import Limits
from serving.request_log import RequestLog
from serving.rest import RestServer
from serving.runner import Runner
from serving.servables import Servables
from serving.tokens import NeedToken, Tokens
from serving.warmup import warm_up
from serving.watching import Watcher
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import SIMILARITY

# The flags of the command that name a port.
PORT, REST_PORT, METRICS_PORT = "--port", "--rest_api_port", "--metrics_port"

HEALTH_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# For health, status and metadata, and for refusals that say why. A client of several servers
# watches the health of each as long as it is there.
SPARE_RPCS = 1024
# Until a connection speaks HTTP/2, and as long as it has no call; clients connect again unseen.
HANDSHAKE_TIMEOUT_S, IDLE_TIMEOUT_S = 10.0, 300.0
# A caller with calls is asked whether it is still there, and how long it may take to say so.
KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 60.0, 20.0

# What `grpcurl` and others are told that the server has. By name: the modules that TF Serving's
# package generates of its services do not load with today's protobuf, those of messages do.
_SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
    reflection.SERVICE_NAME,
)


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens and what it bears.

    Attributes:
        max_message_bytes: Largest gRPC message and REST body.
        max_connections: To the gRPC port; one more is closed at once. A client has one.
        max_running: Predict requests computed at the same time.
        max_waiting: Predict requests that wait for their turn; more are refused.
        rest_timeout_s: How long a REST caller waits at most; gRPC callers say it themselves.
        poll_s: Time between two looks for new versions; None: never look again.
        limits: What one request may ask.
        batching: How waiting requests are merged into one run; None: each is run by itself.
        optimize: Whether a version is made fast before it answers: its functions inlined, its
            warm-up requests run. False suits a server of a few requests, which is up earlier; its
            first answers take longer.
        drain_s: How long a server that stops takes requests as before while health checks are told
            NOT_SERVING: what those who send them need to turn to another server.
        grace_s: How long the requests under way may take after that.
        credentials: For TLS on the gRPC port; None: no encryption.
        tokens: That requests need, over gRPC and REST; None: they need none.
        post_score: What makes of the scores of `similarity` those to answer with; None: they stay.
    """

    max_message_bytes: int = 16 * 1024 * 1024
    max_connections: int = 4096
    max_running: int = os.cpu_count() or 1
    max_waiting: int = 256
    rest_timeout_s: float = 30.0
    poll_s: float | None = 1.0
    limits: Limits = Limits()
    batching: BatchingOptions | None = None
    optimize: bool = True
    drain_s: float = 0.0
    grace_s: float = 5.0
    credentials: grpc.ServerCredentials | None = None
    tokens: Tokens | None = None
    post_score: PostScore | None = None


class ModelServer:
    """A running server; a context manager that starts and stops it.

    Example:
        with ModelServer([ModelConfig("retrieval", Path("/models/retrieval"))]) as server:
            client = RetrievalClient(f"127.0.0.1:{server.port}")
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rest_port: int | None = 0,
        metrics_port: int | None = None,
        options: ServerOptions | None = None,
        config_path: Path | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        """Binds the ports, so that a busy one is known before models are loaded.

        Args:
            models: What to serve.
            host: Address to listen on. REST is not encrypted: anything but the loopback belongs
                behind a proxy that has encryption and passwords, or gets mutual TLS, or TLS and
                tokens, on the gRPC port.
            port: gRPC port; 0 takes a free one.
            rest_port: REST port; 0 takes a free one, None turns REST off.
            metrics_port: Port of the metrics alone, which REST then lacks; None: REST has them.
            options: Limits; default `ServerOptions()`.
            config_path: A `models.config` to read anew with each look for versions; None: `models`
                stays as it is.
            stopping: Set by whoever wants the server to stop: it loads no further model.

        Raises:
            UserError: If a port cannot be had.
        """
        self._options = options = options or ServerOptions()
        self._stopping = stopping or threading.Event()
        self._servables = Servables(models, self._load, self._stopping)
        self._watcher: Watcher | None = None
        if options.poll_s is not None:
            reread = partial(read_models_config, config_path) if config_path else None
            self._watcher = Watcher(self._servables, options.poll_s, reread)
        max_requests = options.max_running + options.max_waiting
        batching = options.batching
        num_threads = batching.num_batch_threads if batching else options.max_running
        metrics = Metrics()

        def has_run(task: Task, queued_s: float, run_s: float) -> None:
            version = task.servable
            metrics.record_run(version.name, version.version, task.signature, queued_s, run_s)
            if counts := version.features.count_some(task.inputs):
                metrics.record_features(version.name, version.version, counts)

        self._runner = Runner(num_threads, max_requests, batching, has_run)
        self._request_log = RequestLog()
        core = Core(self._servables, self._runner, options.limits, metrics, self._request_log)
        try:
            self._grpc, self._gate, self._health, self.port = event_loop.submit(
                _grpc_server(core, address_of(host, port), options, max_requests)
            ).result()
        except RuntimeError as error:
            raise _cannot_listen(PORT, host, port) from error
        self._http: dict[str, RestServer] = {}  # By the flag of the port.
        for flag, http_port, has_api, has_metrics in (
            (REST_PORT, rest_port, True, metrics_port is None),
            (METRICS_PORT, metrics_port, False, True),
        ):
            if http_port is None:
                continue
            try:
                self._http[flag] = RestServer(
                    (host, http_port),
                    core,
                    options.max_message_bytes,
                    options.rest_timeout_s,
                    is_ready=lambda: self._health.is_ready,
                    has_api=has_api,
                    has_metrics=has_metrics,
                    tokens=options.tokens,
                )
            except OSError as error:
                event_loop.submit(self._grpc.stop(None)).result()
                for bound in self._http.values():
                    bound.server_close()
                raise _cannot_listen(flag, host, http_port) from error
        self._http_threads: list[threading.Thread] = []
        self._is_serving = False

    @property
    def rest_port(self) -> int | None:
        """The REST port; None where REST is off."""
        return self._http[REST_PORT].server_port if REST_PORT in self._http else None

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics alone; None where there is none."""
        return self._http[METRICS_PORT].server_port if METRICS_PORT in self._http else None

    def start(self) -> None:
        """Loads the models, unless it shall stop before.

        Callers are answered from the start: health checks with NOT_SERVING, requests for a model
        that is not loaded yet with UNAVAILABLE.

        Raises:
            LoadError: If a model cannot be served.
        """
        event_loop.submit(self._grpc.start()).result()
        for http in self._http.values():
            thread = threading.Thread(
                target=http.serve_forever, args=(0.1,), name="rest", daemon=True
            )
            thread.start()
            self._http_threads.append(thread)
        try:
            self._servables.start()
        except BaseException:
            self.stop()
            raise
        if self._stopping.is_set():
            return
        self._set_ready(True)
        self._is_serving = True
        if self._watcher:
            self._watcher.start()

    def stop(self) -> None:
        """Tells health checks first, then takes no more requests, unloads the models."""
        self._stopping.set()
        self._set_ready(False)
        if self._watcher:
            self._watcher.stop()
        if self._is_serving:
            time.sleep(self._options.drain_s)
        grace_s = self._options.grace_s if self._is_serving else 0.0
        end_s = time.monotonic() + grace_s
        stopped = event_loop.submit(self._gate.stop(self._grpc, grace_s))
        for http in self._http.values():
            http.stop(grace_s, has_begun=bool(self._http_threads))
        stopped.result()
        self._is_serving = False
        self._runner.close()
        self._request_log.close()
        if self._watcher and not self._watcher.join(max(0.0, end_s - time.monotonic())):
            return  # It loads, which cannot be ended: the memory is freed with the process.
        self._servables.close()

    @property
    def is_loading(self) -> bool:
        """Whether a thread still loads a model; true after `stop` where that took too long."""
        return self._watcher is not None and not self._watcher.join(0.0)

    def __enter__(self) -> Self:
        """See `start`."""
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """See `stop`."""
        self.stop()

    def _load(self, path: Path, name: str, version: int) -> Servable:
        post_score = self._options.post_score if name == SIMILARITY else None
        servable = load(
            path,
            name,
            version,
            optimize=self._options.optimize,
            adjust=partial(adjusted_outputs, post_score) if post_score else None,
        )
        if self._options.optimize:
            try:
                warm_up(servable, path, self._options.limits)
            except LoadError:
                servable.close()
                raise
        return servable

    def _set_ready(self, is_ready: bool) -> None:
        event_loop.submit(self._health.set_ready(is_ready)).result()


async def _grpc_server(
    core: Core, address: str, options: ServerOptions, max_requests: int
) -> tuple[grpc.aio.Server, Gate, Health, int]:
    """A server that listens but does not answer yet, the gate of its calls, its health, its port.

    Raises:
        RuntimeError: If the address cannot be bound.
    """
    server = grpc.aio.server(
        interceptors=[
            *([] if options.tokens is None else [NeedToken(options.tokens)]),
            ReadMessages(),
        ],
        # Who watches the health takes a place of its own.
        maximum_concurrent_rpcs=max_requests + SPARE_RPCS + options.max_connections,
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", options.max_connections),
            ("grpc.max_concurrent_streams", max_requests + SPARE_RPCS),
            ("grpc.max_receive_message_length", options.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_TIMEOUT_S)),
            ("grpc.max_connection_idle_ms", int(1000 * IDLE_TIMEOUT_S)),
            ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_S)),
            ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_TIMEOUT_S)),
        ],
    )
    gate, health = Gate(), Health(HEALTH_SERVICES, options.max_connections)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(core, gate), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core, gate), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(_SERVICES, server)
    if options.credentials is None:
        return server, gate, health, server.add_insecure_port(address)
    return server, gate, health, server.add_secure_port(address, options.credentials)


def address_of(host: str, port: int) -> str:
    """`host:port`, of IPv4, IPv6 or by name."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cannot_listen(flag: str, host: str, port: int) -> UserError:
    return UserError(
        f"cannot listen on {address_of(host, port)}: is it in use? Choose another {flag}"
    )

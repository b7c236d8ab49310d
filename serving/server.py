"""The embedded model server: TF Serving's gRPC and REST APIs, with ScaNN's ops on board.

    python -m serving.server --port=8500 --rest_api_port=8501 --model_config_file=models.config

The flags are TF Serving's, so that one server replaces the other.
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Self

import grpc
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import event_loop, native_log
from serving.batching import BatchingOptions, Task
from serving.batching_config import read_batching_options
from serving.core import Core
from serving.draining import Gate
from serving.errors import LoadError
from serving.grpc_services import ModelService, PredictionService, ReadMessages
from serving.loading import Servable, load
from serving.metrics import Metrics
from serving.model_config import ModelConfig, read_models_config
from serving.post_score import PostScore, adjusted_outputs, load_post_score
from serving.predict import Limits
from serving.request_log import RequestLog
from serving.rest import RestServer
from serving.runner import Runner
from serving.servables import Servables
from serving.tls import read_server_credentials
from serving.tokens import NeedToken, Tokens, read_tokens
from serving.warmup import warm_up
from serving.watching import Watcher
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.models_layout import SIMILARITY

_LOG = logging.getLogger(__name__)

HEALTH_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
# For health, status and metadata, and for refusals that say why. A client of several servers
# watches the health of each as long as it is there.
SPARE_RPCS = 1024
# Until a connection speaks HTTP/2, and as long as it has no call; clients connect again unseen.
HANDSHAKE_TIMEOUT_S, IDLE_TIMEOUT_S = 10.0, 300.0
# A caller with calls is asked whether it is still there, and how long it may take to say so.
KEEPALIVE_S, KEEPALIVE_TIMEOUT_S = 60.0, 20.0


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens and what it bears.

    Attributes:
        max_message_bytes: Largest gRPC message and REST body.
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
                _grpc_server(core, _address(host, port), options, max_requests)
            ).result()
        except RuntimeError as error:
            raise _cannot_listen("--port", host, port) from error
        self._http: dict[str, RestServer] = {}  # By the flag of the port.
        for flag, http_port, has_api, has_metrics in (
            (_REST_PORT, rest_port, True, metrics_port is None),
            (_METRICS_PORT, metrics_port, False, True),
        ):
            if http_port is None:
                continue
            try:
                self._http[flag] = RestServer(
                    (host, http_port),
                    core,
                    options.max_message_bytes,
                    options.rest_timeout_s,
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
        return self._http[_REST_PORT].server_port if _REST_PORT in self._http else None

    @property
    def metrics_port(self) -> int | None:
        """The port of the metrics alone; None where there is none."""
        return self._http[_METRICS_PORT].server_port if _METRICS_PORT in self._http else None

    def start(self) -> None:
        """Loads the models, unless it shall stop before.

        Callers are answered from the start: health checks with NOT_SERVING, requests for a model
        that is not loaded yet with UNAVAILABLE.

        Raises:
            LoadError: If a model cannot be served.
        """
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
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
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._is_serving = True
        if self._watcher:
            self._watcher.start()

    def stop(self) -> None:
        """Tells health checks first, then takes no more requests, unloads the models."""
        self._stopping.set()
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._watcher:
            self._watcher.stop()
        if self._is_serving:
            time.sleep(self._options.drain_s)
        grace_s = self._options.grace_s if self._is_serving else 0.0
        end_s = time.monotonic() + grace_s
        stopped = event_loop.submit(self._gate.stop(self._grpc, grace_s))
        for http in self._http.values():
            if self._http_threads:
                http.shutdown()
            http.server_close()
            http.drain(grace_s)
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

    def _set_health(self, status: int) -> None:
        for service in HEALTH_SERVICES:
            event_loop.submit(self._health.set(service, status)).result()


async def _grpc_server(
    core: Core, address: str, options: ServerOptions, max_requests: int
) -> tuple[grpc.aio.Server, Gate, health.aio.HealthServicer, int]:
    """A server that listens but does not answer yet, the gate of its calls, its health, its port.

    Raises:
        RuntimeError: If the address cannot be bound.
    """
    server = grpc.aio.server(
        interceptors=[
            *([] if options.tokens is None else [NeedToken(options.tokens)]),
            ReadMessages(),
        ],
        maximum_concurrent_rpcs=max_requests + SPARE_RPCS,
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", options.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_TIMEOUT_S)),
            ("grpc.max_connection_idle_ms", int(1000 * IDLE_TIMEOUT_S)),
            ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_S)),
            ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_TIMEOUT_S)),
        ],
    )
    gate, servicer = Gate(), health.aio.HealthServicer()
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(core, gate), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(core, gate), server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection(_SERVICES, server)
    if options.credentials is None:
        return server, gate, servicer, server.add_insecure_port(address)
    return server, gate, servicer, server.add_secure_port(address, options.credentials)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cannot_listen(flag: str, host: str, port: int) -> UserError:
    return UserError(
        f"cannot listen on {_address(host, port)}: is it in use? Choose another {flag}"
    )


_PORTS = 2**16 - 1
_REST_PORT, _METRICS_PORT = "--rest_api_port", "--metrics_port"

# What `grpcurl` and others are told that the server has. By name: the modules that TF Serving's
# package generates of its services do not load with today's protobuf, those of messages do.
_SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)

_APP = typer.Typer(add_completion=False, rich_markup_mode=None)


@_APP.command()
def serve(
    port: Annotated[
        int, typer.Option("--port", min=0, max=_PORTS, help="gRPC port; 0 takes a free one.")
    ] = 8500,
    rest_api_port: Annotated[
        int,
        typer.Option(_REST_PORT, min=0, max=_PORTS, help="REST port; 0 turns REST off."),
    ] = 0,
    metrics_port: Annotated[
        int,
        typer.Option(
            _METRICS_PORT,
            min=0,
            max=_PORTS,
            help="A separate port for the metrics; 0: they are on the REST port.",
        ),
    ] = 0,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="IPv4 or IPv6 address to listen on. The server encrypts only gRPC: listen on "
            "another address than the loopback only in a container, behind a proxy that encrypts "
            "and authenticates, with mutual TLS, or with TLS and tokens.",
        ),
    ] = "127.0.0.1",
    ssl_config_file: Annotated[
        Path | None,
        typer.Option(
            "--ssl_config_file",
            help="TF Serving's SSLConfig, for TLS on the gRPC port: server_key, server_cert; for "
            "mutual TLS also custom_ca and client_verify. REST is not encrypted.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token_file",
            help="File with one token per line, of 16 characters or more. Requests then need the "
            "header `authorization: Bearer TOKEN`; health checks and metrics do not.",
        ),
    ] = None,
    model_config_file: Annotated[
        Path | None, typer.Option("--model_config_file", help="The models.config of an export.")
    ] = None,
    model_config_file_poll_wait_seconds: Annotated[
        float,
        typer.Option(
            "--model_config_file_poll_wait_seconds",
            help="Unless 0, read the config file again with each search for new versions.",
        ),
    ] = 0.0,
    model_name: Annotated[
        str, typer.Option("--model_name", help="Name of a single model.")
    ] = "default",
    model_base_path: Annotated[
        Path | None,
        typer.Option("--model_base_path", help="Folder of a single model's versions."),
    ] = None,
    file_system_poll_wait_seconds: Annotated[
        float,
        typer.Option(
            "--file_system_poll_wait_seconds",
            help="Time between two searches for new versions; 0: never.",
        ),
    ] = 1.0,
    rest_api_timeout_in_ms: Annotated[
        int, typer.Option("--rest_api_timeout_in_ms", help="How long a REST request may take.")
    ] = 30_000,
    enable_batching: Annotated[
        bool,
        typer.Option(
            "--enable_batching", help="Merge requests that wait for the same signature into one."
        ),
    ] = False,
    batching_parameters_file: Annotated[
        Path | None,
        typer.Option(
            "--batching_parameters_file",
            help="How to merge them; an example is serving/batching.config.",
        ),
    ] = None,
    max_message_bytes: Annotated[
        int, typer.Option("--max_message_bytes", help="Largest gRPC message and REST body.")
    ] = ServerOptions.max_message_bytes,
    max_batch_size: Annotated[
        int, typer.Option("--max_batch_size", help="The largest number of rows of a request.")
    ] = Limits.max_batch_size,
    max_running_requests: Annotated[
        int,
        typer.Option(
            "--max_running_requests", min=1, help="How many requests are computed at a time."
        ),
    ] = ServerOptions.max_running,
    max_waiting_requests: Annotated[
        int,
        typer.Option(
            "--max_waiting_requests",
            min=0,
            help="How many requests may wait; further ones are refused.",
        ),
    ] = ServerOptions.max_waiting,
    post_score: Annotated[
        str | None,
        typer.Option(
            "--post_score",
            metavar="NAME",
            help="A function of an installed package, by its entry point in the group "
            "tfrs_twotower.post_score, that changes the scores of the model `similarity`.",
        ),
    ] = None,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain_seconds",
            min=0.0,
            help="After SIGTERM, health checks answer NOT_SERVING for so long before requests are "
            "refused. Set it to the time that your load balancer needs to notice.",
        ),
    ] = 0.0,
    shutdown_grace_seconds: Annotated[
        float,
        typer.Option(
            "--shutdown_grace_seconds",
            min=0.0,
            help="How long running requests may take after that.",
        ),
    ] = 5.0,
) -> None:
    """Serves SavedModels over TF Serving's gRPC and REST APIs until SIGTERM or Ctrl-C."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    native_log.keep_errors_only()
    try:
        options = ServerOptions(
            max_message_bytes=max_message_bytes,
            max_running=max_running_requests,
            max_waiting=max_waiting_requests,
            rest_timeout_s=rest_api_timeout_in_ms / 1000,
            poll_s=file_system_poll_wait_seconds or None,
            limits=Limits(max_batch_size=max_batch_size),
            batching=_batching(enable_batching, batching_parameters_file),
            drain_s=drain_seconds,
            grace_s=shutdown_grace_seconds,
            credentials=read_server_credentials(ssl_config_file) if ssl_config_file else None,
            tokens=read_tokens(token_file) if token_file else None,
            post_score=load_post_score(post_score) if post_score else None,
        )
        stopping = threading.Event()  # Also heard while models are loaded.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        with ModelServer(
            _models(model_config_file, model_name, model_base_path),
            host=host,
            port=port,
            rest_port=rest_api_port or None,
            metrics_port=metrics_port or None,
            options=options,
            config_path=model_config_file if model_config_file_poll_wait_seconds else None,
            stopping=stopping,
        ) as server:
            if not stopping.is_set():
                rest = f" and REST on port {server.rest_port}" if server.rest_port else ""
                _LOG.info("serving gRPC on %s%s", _address(host, server.port), rest)
            # What TensorFlow has made by now stays: a full collection would stop all answers to
            # look through it.
            gc.collect()
            gc.freeze()
            stopping.wait()
            _LOG.info("stopping")
        if server.is_loading:
            logging.shutdown()
            os._exit(0)  # Python would wait for a thread deep in TensorFlow, or take it down.
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def _batching(is_enabled: bool, path: Path | None) -> BatchingOptions | None:
    if not is_enabled:
        if path:
            raise UsageError("--batching_parameters_file has no effect without --enable_batching")
        return None
    return read_batching_options(path) if path else BatchingOptions()


def _models(config_path: Path | None, model_name: str, base_path: Path | None) -> list[ModelConfig]:
    if config_path and base_path:
        raise UsageError("give --model_config_file or --model_base_path, not both")
    if config_path:
        return read_models_config(config_path)
    if base_path:
        return [ModelConfig(model_name, base_path)]
    raise UsageError("nothing to serve: give --model_config_file=MODELS/models.config")


# TF Serving takes a switch with a value, too.
_ON, _OFF = ("--enable_batching=true", "--enable_batching=1"), ("--enable_batching=false",)

# Flags that TF Serving needs, and this server has no need of: it answers health checks and metrics
# always, bounds requests and not threads, and moves a label once its version is loaded.
_NEEDLESS = (
    "--allow_version_labels_for_unavailable_models",
    "--enable_grpc_healthcheck_service",
    "--grpc_max_threads",
    "--monitoring_config_file",
)


def _understood(arguments: Sequence[str]) -> list[str]:
    """The words of a command line that the command knows; tells of the flags left out."""
    kept = []
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag in _NEEDLESS:
            typer.echo(f"{flag}: not needed by this server", err=True)
        elif argument not in _OFF:
            kept.append(flag if argument in _ON else argument)
    return kept


def main(argv: Sequence[str] | None = None, program: str = "python -m serving.server") -> int:
    """Runs the command line.

    Args:
        argv: Its words; None: those of the process.
        program: How it was called, for messages.

    Returns:
        0: stopped by a signal; 1: failed; 2: misused.
    """
    given = sys.argv[1:] if argv is None else argv
    try:
        _APP(
            args=_understood(given),
            prog_name=program,
        )
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The embedded server as a command: TF Serving's gRPC and REST APIs, with ScaNN's ops on board.

    python -m serving.server --port=8500 --rest_api_port=8501 --model_config_file=models.config

The flags are TF Serving's, so that one server replaces the other.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from serving import native_log
from serving.batching import BatchingOptions
from serving.batching_config import read_batching_options
from serving.model_config import ModelConfig, read_models_config
from serving.model_server import (
    METRICS_PORT,
    PORT,
    REST_PORT,
    ModelServer,
    ServerOptions,
    address_of,
)
from serving.post_score import load_post_score
from serving.predict import Limits
from serving.tls import read_server_credentials
from serving.tokens import read_tokens
from tfrs_twotower.schema import UsageError, UserError

_LOG = logging.getLogger(__name__)

_PORTS = 2**16 - 1
_APP = typer.Typer(add_completion=False, rich_markup_mode=None)


@_APP.command()
def serve(
    port: Annotated[
        int, typer.Option(PORT, min=0, max=_PORTS, help="gRPC port; 0 takes a free one.")
    ] = 8500,
    rest_api_port: Annotated[
        int,
        typer.Option(REST_PORT, min=0, max=_PORTS, help="REST port; 0 turns REST off."),
    ] = 0,
    metrics_port: Annotated[
        int,
        typer.Option(
            METRICS_PORT,
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
    max_connections: Annotated[
        int,
        typer.Option(
            "--max_connections",
            min=1,
            help="The most connections to the gRPC port. Further connections are closed at once.",
        ),
    ] = ServerOptions.max_connections,
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
            max_connections=max_connections,
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
        stopping = _set_by_signals()
        server = ModelServer(
            _models(model_config_file, model_name, model_base_path),
            host=host,
            port=port,
            rest_port=rest_api_port or None,
            metrics_port=metrics_port or None,
            options=options,
            config_path=model_config_file if model_config_file_poll_wait_seconds else None,
            stopping=stopping,
        )
        _run(server, host, stopping)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


def _set_by_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, also while models are loaded."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


def _run(server: ModelServer, host: str, stopping: threading.Event) -> None:
    """Runs the server until `stopping`; ends the process where a load will not end."""
    with server:
        if not stopping.is_set():
            rest = f" and REST on port {server.rest_port}" if server.rest_port else ""
            _LOG.info("serving gRPC on %s%s", address_of(host, server.port), rest)
        # What TensorFlow has made by now stays: a full collection would stop all answers to look
        # through it.
        gc.collect()
        gc.freeze()
        stopping.wait()
        _LOG.info("stopping")
    if server.is_loading:
        logging.shutdown()
        os._exit(0)  # Python would wait for a thread deep in TensorFlow, or take it down.


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

"""TF Serving's REST API over HTTP/1.1, its page of metrics, and whether the server is ready.

On the standard library's server, which bounds the time to read a request and refuses bodies unread.
Starlette with uvicorn, a POST of 30 bytes answered with 3 KB, measured beside it: 1,500 answers a
second against 2,200 with one client, as many with eight; and it has no limit on the reading time.
"""

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from serving import rest_json
from serving.core import SIGNATURE_DEF, Core
from serving.errors import (
    HTTP_STATUS,
    INTERNAL_FAULT,
    STOPPING,
    InvalidRequestError,
    ServingError,
    UnimplementedError,
)
from serving.loading import Servable
from serving.metrics import CONTENT_TYPE, METRICS_PATH
from serving.tensors import Array
from serving.tokens import AUTHORIZATION, REFUSAL, Tokens

_LOG = logging.getLogger(__name__)

_SPEC = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT_PATH = re.compile(_SPEC + r":(?P<method>classify|regress|predict)", re.IGNORECASE)
_MODEL_PATH = re.compile(_SPEC + r"(?P<metadata>/metadata)?", re.IGNORECASE)

READY_PATH = "/ready"

MAX_DIGITS = 18  # Of a version or a length: what fits an int64.
MAX_CONNECTIONS = 256
IDLE_TIMEOUT_S = 60.0
# From the first byte of a request to its last: who drips does not keep a connection for ever.
READ_TIMEOUT_S = 10.0
# Larger bodies are read and answered a few at a time: parsed, JSON takes ten times its size.
LARGE_BODY_BYTES = 64 * 1024
MAX_LARGE_BODIES = 2


def answer(
    core: Core,
    method: str,
    path: str,
    body: bytes,
    timeout_s: float | None,
    once_sent: ExitStack,
) -> bytes:
    """Answers a request under `/v1/`.

    Args:
        core: What answers.
        method: "GET" or "POST".
        path: The path, percent-encoded.
        body: The request's body.
        timeout_s: How long the caller is made to wait at most.
        once_sent: Gets what is left to do, to be closed when the answer has been sent.

    Returns:
        The JSON body of a 200.

    Raises:
        ServingError: With the status that TF Serving gives.
    """
    if method == "POST" and (match := _PREDICT_PATH.fullmatch(path)):
        if match["method"].lower() != "predict":
            raise UnimplementedError(f"{match['method']} is not offered: ask :predict")
        return _predict(core, _model_spec(match), body, timeout_s, once_sent)
    if method == "GET" and (match := _MODEL_PATH.fullmatch(path)):
        return _metadata(core, match) if match["metadata"] else _status(core, match)
    raise InvalidRequestError(f"Malformed request: {method} {path[:200]}")


def _model_spec(match: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=unquote(match["name"]))
    if match["version"]:
        if len(match["version"]) > MAX_DIGITS:
            raise InvalidRequestError("Failed to convert version to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec


def _predict(
    core: Core, spec: Any, body: bytes, timeout_s: float | None, once_sent: ExitStack
) -> bytes:
    question = rest_json.parse(body)

    def inputs_of(servable: Servable) -> tuple[str, dict[str, Array]]:
        if question.signature not in servable.signatures:
            raise InvalidRequestError(
                f'Serving signature name: "{question.signature}" not found in signature def'
            )
        signature = servable.signatures[question.signature]
        return question.signature, rest_json.to_inputs(question, signature)

    outputs = core.predict_arrays(spec, inputs_of, timeout_s, once_sent)
    return rest_json.render(outputs, question.layout)


def _status(core: Core, match: re.Match[str]) -> bytes:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=_model_spec(match))
    return json.dumps(_as_dict(core.status(request)), indent=1).encode()


def _metadata(core: Core, match: re.Match[str]) -> bytes:
    response = core.metadata(
        get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=_model_spec(match), metadata_field=[SIGNATURE_DEF]
        )
    )
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(signatures)
    document = {
        "model_spec": _as_dict(response.model_spec),
        "metadata": {SIGNATURE_DEF: _as_dict(signatures)},
    }
    return json.dumps(document, indent=1).encode()


def _as_dict(message: Any) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


class RestServer(ThreadingHTTPServer):
    """Listens for HTTP; `server_port` is the port."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        core: Core,
        max_body_bytes: int,
        timeout_s: float,
        *,
        is_ready: Callable[[], bool] = lambda: True,
        has_api: bool = True,
        has_metrics: bool = True,
        tokens: Tokens | None = None,
    ) -> None:
        """Binds the address; `serve_forever` answers.

        Args:
            address: Host and port; port 0 takes a free one.
            core: What answers.
            max_body_bytes: Larger bodies are refused unread.
            timeout_s: How long a caller is made to wait at most.
            is_ready: What `/ready` tells, as health checks do over gRPC.
            has_api: Whether it answers what is under `/v1/`.
            has_metrics: Whether it has the page of metrics.
            tokens: That requests under `/v1/` need; None: they need none.

        Raises:
            OSError: If the address cannot be bound.
        """
        self.core = core
        self.max_body_bytes = max_body_bytes
        self.timeout_s = timeout_s
        self.is_ready = is_ready
        self.has_api, self.has_metrics = has_api, has_metrics
        self.is_stopping = False
        self.tokens = tokens
        self.large_bodies = threading.BoundedSemaphore(MAX_LARGE_BODIES)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._must_be_read_s: dict[socket.socket, float] = {}  # By when, of `time.monotonic`.
        self._num_answering = 0
        self._answered = threading.Condition()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without asking the name service who we are, which may take seconds."""
        TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name, self.server_port = str(host), int(port)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection its thread, or closes it where there are too many."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Runs a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Marks a request as under way, for `stop`."""
        with self._answered:
            self._num_answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._num_answering -= 1
                self._answered.notify_all()

    def begin_reading(self, connection: socket.socket) -> None:
        """Gives the request on a connection a time by which it must have come whole."""
        self._must_be_read_s[connection] = time.monotonic() + READ_TIMEOUT_S

    def has_read(self, connection: socket.socket) -> None:
        """Ends what `begin_reading` began."""
        self._must_be_read_s.pop(connection, None)

    def service_actions(self) -> None:
        """Reads no further where a request is too long in coming; called many times a second."""
        now_s = time.monotonic()
        for connection, end_s in list(self._must_be_read_s.items()):
            if now_s > end_s:
                self.has_read(connection)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def stop(self, grace_s: float, *, has_begun: bool) -> None:
        """Takes no more requests, and waits until none is under way.

        Those that come on connections that are open already are refused.

        Args:
            grace_s: How long to wait at most.
            has_begun: Whether `serve_forever` runs.
        """
        self.is_stopping = True
        if has_begun:
            self.shutdown()
        self.server_close()
        with self._answered:
            self._answered.wait_for(lambda: not self._num_answering, grace_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Notes a connection that broke, without its contents."""
        _LOG.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    server_version = "twotower"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_TIMEOUT_S
    rfile: io.BufferedReader

    def handle_one_request(self) -> None:
        try:
            self.rfile.peek(1)  # As long as an idle connection may take.
        except OSError:
            self.close_connection = True
            return
        self.server.begin_reading(self.connection)
        try:
            super().handle_one_request()
        finally:
            self.server.has_read(self.connection)

    def do_GET(self) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # Or an unread body would be taken for a request.
        with self.server.answering():
            self._answer(b"")

    def do_POST(self) -> None:
        with self.server.answering():
            if self._is_admitted():
                self._read_and_answer()
            else:  # Before the body is read.
                self._refuse(HTTPStatus.UNAUTHORIZED, REFUSAL)

    def _is_admitted(self) -> bool:
        tokens = self.server.tokens
        return tokens is None or tokens.admit(self.headers.get(AUTHORIZATION))

    def _read_and_answer(self) -> None:
        length = self.headers.get("Content-Length", "")
        is_number = length.isascii() and length.isdigit() and len(length) <= MAX_DIGITS
        if not is_number or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request needs a Content-Length alone")
        elif int(length) > self.server.max_body_bytes:
            limit = self.server.max_body_bytes
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has {length} bytes, more than --max_message_bytes {limit}",
            )
        elif int(length) <= LARGE_BODY_BYTES:
            self._read_body(int(length))
        elif not self.server.large_bodies.acquire(timeout=READ_TIMEOUT_S / 2):
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too many large bodies: try again later")
        else:
            try:
                self._read_body(int(length))
            finally:
                self.server.large_bodies.release()

    def _read_body(self, length: int) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the body did not come whole")
        else:
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        self.server.has_read(self.connection)
        path = self.path.partition("?")[0]
        if self.server.has_metrics and self.command == "GET" and path == METRICS_PATH:
            self._send(HTTPStatus.OK, self.server.core.metrics().encode(), CONTENT_TYPE)
            return
        if self.command == "GET" and path == READY_PATH:
            is_ready = self.server.is_ready()
            status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._send(status, json.dumps({"ready": is_ready}).encode())
            return
        if not (self.server.has_api and path.lower().startswith("/v1/")):
            self._error(HTTPStatus.NOT_FOUND, "Not Found")
            return
        if self.server.is_stopping:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, STOPPING)
            return
        if not self._is_admitted():
            self._refuse(HTTPStatus.UNAUTHORIZED, REFUSAL)
            return
        core, timeout_s = self.server.core, self.server.timeout_s
        with ExitStack() as once_sent:
            try:
                content = answer(core, self.command, path, body, timeout_s, once_sent)
            except ServingError as error:
                status = HTTP_STATUS.get(error.status, HTTPStatus.INTERNAL_SERVER_ERROR)
                self._error(status, str(error))
            except Exception:
                _LOG.exception("a REST request failed")
                self._error(HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_FAULT)
            else:
                self._send(HTTPStatus.OK, content)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answers without having read the body, which ends the connection."""
        self.close_connection = True
        self._error(status, message)

    def _error(self, status: HTTPStatus, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode())

    def _send(
        self, status: HTTPStatus, content: bytes, content_type: str = "application/json"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if not self.server.is_ready():
            # The caller turns to another server, or comes back on a new connection.
            self.close_connection = True
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: paths and bodies are the caller's."""

"""Whatever a caller or a disk does: a status each time, and the server is alive after."""

import contextlib
import http.client
import json
import shutil
import socket
import threading

import grpc
import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
)

from serving import grpc_services, model_server
from serving import rest as rest_module
from serving.client import RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from serving.tokens import Tokens
from tests.serving import toy_models
from tests.serving.conftest import is_healthy, wait_until
from tests.serving.toy_models import EAST_QUERY, predict_request

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SILENT = [
    PREDICT,
    "/tensorflow.serving.ModelService/GetModelStatus",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
# What a caller may cause; INTERNAL and UNKNOWN would be faults of the server.
CALLERS_FAULTS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
FUZZ = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

sizes = st.one_of(st.integers(0, 3), st.sampled_from([-1, 2**31, 2**62]))
tensors = st.builds(
    lambda dtype, shape, unknown, content, strings, floats, ints: tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_shape={"dim": [{"size": size} for size in shape], "unknown_rank": unknown},
        tensor_content=content,
        string_val=strings,
        float_val=floats,
        int_val=ints,
    ),
    dtype=st.sampled_from([0, 1, 3, 7, 7, 9, 10, 14, 20, 21, 101, 999]),
    shape=st.lists(sizes, max_size=3),
    unknown=st.booleans(),
    content=st.binary(max_size=8),
    strings=st.lists(st.binary(max_size=3), max_size=3),
    floats=st.lists(st.floats(width=32), max_size=3),
    ints=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
)
names = st.sampled_from(["user_id", "history", "age", "k", "exclude_ids", "allow_ids", "x", ""])


@pytest.fixture(params=["embedded", "batching"])
def call(request):
    """Sends bytes as a Predict request; returns the status."""
    with grpc.insecure_channel(request.getfixturevalue(request.param).target) as channel:
        method = channel.unary_unary(PREDICT)

        def send(body):
            return method.future(body, timeout=20).code()

        yield send


@FUZZ
@given(
    model=st.sampled_from(["retrieval", "query_tower", "\u0000", ""]),
    signature=st.sampled_from(["recommend", "score", "serving_default", "x", ""]),
    version=st.sampled_from([None, 3, -1, 2**62]),
    inputs=st.dictionaries(names, tensors, max_size=7),
    keep=st.booleans(),
)
def test_tensors_of_any_kind_get_a_status(call, model, signature, version, inputs, keep):
    """Half the requests start from a good one and spoil some of its inputs."""
    request = predict_request(**toy_models.EAST) if keep else predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    if version is not None:
        request.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=version))
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tensor)

    assert call(request.SerializeToString()) in CALLERS_FAULTS
    assert call(predict_request(**toy_models.EAST).SerializeToString()) == grpc.StatusCode.OK


@FUZZ
@given(body=st.binary(max_size=200))
def test_bytes_of_any_kind_get_a_status(call, body):
    assert call(body) in CALLERS_FAULTS
    assert call(predict_request(**toy_models.EAST).SerializeToString()) == grpc.StatusCode.OK


def test_a_name_of_any_length_is_not_found(embedded):
    """Sent back whole, it would be more than a caller takes of headers."""
    request = predict_request(model="x" * 100_000, **toy_models.EAST)
    with embedded.stub() as stub:
        refused = stub.Predict.future(request, timeout=20)

        assert refused.code() == grpc.StatusCode.NOT_FOUND
        assert refused.details().startswith("Servable not found for request: Latest(xxx")
        assert len(refused.details()) == 1000


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.just({"b64": "ZWFzdA=="}),
        st.just({"b64": "?"}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(names, st.text(max_size=3)), inner, max_size=4),
    ),
    max_leaves=12,
)


@FUZZ
@given(
    document=st.dictionaries(
        st.sampled_from(["instances", "inputs", "signature_name"]), json_values, max_size=3
    )
)
def test_json_of_any_kind_gets_a_status(embedded, document):
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    try:
        connection.request("POST", "/v1/models/retrieval:predict", json.dumps(document))
        reply = connection.getresponse()
        answer = json.loads(reply.read())
    finally:
        connection.close()

    assert reply.status in (200, 400)
    assert (reply.status == 400) == ("error" in answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Content-Length": "-5"}, 411, id="negative length"),
        pytest.param({"Content-Length": str(10**12)}, 413, id="longer than allowed"),
        pytest.param({"Content-Length": "9" * 5000}, 411, id="length without end"),
        pytest.param({"Transfer-Encoding": "chunked"}, 411, id="no length"),
        pytest.param({"Content-Length": "2", "Transfer-Encoding": "chunked"}, 411, id="two ways"),
    ],
)
def test_a_body_that_is_not_to_be_read_is_refused(embedded, headers, status):
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    connection.putrequest("POST", "/v1/models/retrieval:predict")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()

    reply = connection.getresponse()

    assert (reply.status, reply.headers["Connection"]) == (status, "close")
    connection.close()


def test_a_version_without_end_is_refused(embedded):
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    connection.request("GET", f"/v1/models/retrieval/versions/{'9' * 5000}")

    assert connection.getresponse().status == 400
    connection.close()


def test_the_body_of_a_get_is_not_taken_for_a_request(embedded):
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    connection.request("GET", "/v1/models/retrieval", body=b"GET /v1/models/x HTTP/1.1\r\n\r\n")

    reply = connection.getresponse()

    assert (reply.status, reply.headers["Connection"]) == (200, "close")
    connection.close()


def test_one_connection_carries_many_rest_requests(embedded):
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/v1/models/retrieval")
        assert connection.getresponse().read()
    connection.close()


def test_a_huge_k_is_refused_by_the_model(call):
    request = predict_request(**toy_models.EAST, k=np.array([2**31 - 1], np.int32))

    assert call(request.SerializeToString()) == grpc.StatusCode.INVALID_ARGUMENT


def test_a_half_copied_version_leaves_the_old_one_serving_until_it_is_whole(tmp_path):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    whole = toy_models.write_retrieval(tmp_path / "elsewhere", 2, mirrored=True)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "retrieval"

    def status_of_2():
        statuses = {s.version: s for s in stub.GetModelStatus(request).model_version_status}
        return statuses.get(2)

    with (
        ModelServer(
            [ModelConfig("retrieval", base_path)], options=ServerOptions(poll_s=0.02)
        ) as server,
        RetrievalClient(f"127.0.0.1:{server.port}") as client,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        (base_path / "2").mkdir()
        shutil.copy(whole / "saved_model.pb", base_path / "2")
        wait_until(lambda: status_of_2() is not None and status_of_2().state == status_of_2().END)

        assert "cannot load" in status_of_2().status.error_message
        assert client.recommend(EAST_QUERY)[0].model_version == 1

        shutil.copytree(whole, base_path / "2", dirs_exist_ok=True)
        wait_until(lambda: client.recommend(EAST_QUERY)[0].model_version == 2)


def test_more_requests_than_may_wait_are_refused_and_the_others_answered(models_dir):
    options = ServerOptions(max_running=1, max_waiting=2)
    body = predict_request(**toy_models.many_rows(2000)).SerializeToString()
    models = [ModelConfig("retrieval", models_dir / "retrieval")]

    with (
        ModelServer(models, rest_port=None, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        method = channel.unary_unary(PREDICT)
        codes = [future.code() for future in [method.future(body, timeout=30) for _ in range(200)]]

    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_who_drips_a_request_does_not_keep_a_connection(embedded, monkeypatch):
    monkeypatch.setattr(rest_module, "READ_TIMEOUT_S", 0.2)
    head = b"POST /v1/models/retrieval:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    for begun in (b"POST /v1/mod", head + b"{"):
        with socket.create_connection(("127.0.0.1", embedded.rest_port), timeout=20) as dripping:
            dripping.sendall(begun)
            answer = received(dripping)  # All of it: the server has closed the connection.

    assert answer.startswith(b"HTTP/1.1 408 ")


def received(connection):
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_large_bodies_are_answered_a_few_at_a_time(embedded, monkeypatch):
    monkeypatch.setattr(rest_module, "READ_TIMEOUT_S", 2.0)
    monkeypatch.setattr(rest_module, "LARGE_BODY_BYTES", 4)
    length = f"Content-Length: {2**20}"
    head = f"POST /v1/models/retrieval:predict HTTP/1.1\r\n{length}\r\n\r\n".encode()
    with contextlib.ExitStack() as open_connections:
        address = ("127.0.0.1", embedded.rest_port)
        connections = [
            open_connections.enter_context(socket.create_connection(address, timeout=20))
            for _ in range(rest_module.MAX_LARGE_BODIES + 1)
        ]
        for connection in connections:
            connection.sendall(head)
        answers = sorted(received(connection).split()[1] for connection in connections)

    assert answers == [b"408"] * rest_module.MAX_LARGE_BODIES + [b"429"]
    connection = http.client.HTTPConnection("127.0.0.1", embedded.rest_port, timeout=20)
    connection.request("GET", "/v1/models/retrieval")
    assert connection.getresponse().status == 200
    connection.close()


@contextlib.contextmanager
def silent_calls(port, *methods):
    """Calls that are begun and never send their message."""
    forever = threading.Event()

    def nothing():
        forever.wait()
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield [channel.stream_stream(method)(nothing()) for method in methods]
        forever.set()


@pytest.mark.parametrize("tokens", [None, Tokens(["a" * 32])], ids=["open", "with tokens"])
def test_calls_without_a_message_do_not_use_up_the_servers_calls(models_dir, monkeypatch, tokens):
    monkeypatch.setattr(grpc_services, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(model_server, "SPARE_RPCS", len(SILENT))
    models = [ModelConfig("query_tower", models_dir / "query_tower")]
    options = ServerOptions(max_running=1, max_waiting=0, tokens=tokens)
    metadata = [("authorization", "Bearer " + "a" * 32)]
    with (
        ModelServer(models, rest_port=None, options=options) as server,
        silent_calls(server.port, *SILENT) as calls,
        RetrievalClient(f"127.0.0.1:{server.port}", metadata=metadata) as client,
    ):
        codes = {call.code() for call in calls}

        assert len(client.embed(EAST_QUERY)) == 1

    late, unknown = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAUTHENTICATED
    assert codes == ({late} if tokens is None else {late, unknown})


def test_a_call_without_a_message_does_not_hold_up_the_end(models_dir, monkeypatch):
    monkeypatch.setattr(grpc_services, "READ_TIMEOUT_S", 3600.0)
    models = [ModelConfig("query_tower", models_dir / "query_tower")]
    server = ModelServer(models, rest_port=None, options=ServerOptions(grace_s=3600.0))
    server.start()
    with silent_calls(server.port, *SILENT) as calls:
        assert is_healthy(f"127.0.0.1:{server.port}")  # Begun on the same loop, the calls as well.
        ending = threading.Thread(target=server.stop, daemon=True)
        ending.start()
        codes = {call.code() for call in calls}
        ending.join(60)

    assert not ending.is_alive()
    assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


def is_accepted(connection):
    try:
        return connection.recv(1) != b""
    except ConnectionResetError:
        return False


def test_connections_are_bounded_and_a_client_that_has_one_is_answered(models_dir):
    models = [ModelConfig("query_tower", models_dir / "query_tower")]
    options = ServerOptions(max_connections=10)
    with (
        ModelServer(models, rest_port=None, options=options) as server,
        RetrievalClient(f"127.0.0.1:{server.port}") as client,
    ):
        client.embed(EAST_QUERY)
        with contextlib.ExitStack() as opened:
            connections = [
                opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 20))
                for _ in range(30)
            ]
            for connection in connections:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(HTTP2_PREFACE)
            num_accepted = sum(map(is_accepted, connections))

            assert len(client.embed(EAST_QUERY)) == 1
        # What is closed makes room.
        wait_until(lambda: is_healthy(f"127.0.0.1:{server.port}"))

    assert num_accepted == 9


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"PRI * HTTP/2.0\r\n", id="half a preface"),
        pytest.param(HTTP2_PREFACE, id="no call"),
    ],
)
def test_a_connection_without_a_call_is_closed(models_dir, monkeypatch, said):
    monkeypatch.setattr(model_server, "HANDSHAKE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(model_server, "IDLE_TIMEOUT_S", 1.0)
    models = [ModelConfig("query_tower", models_dir / "query_tower")]
    with (
        ModelServer(models, rest_port=None) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection,
    ):
        connection.sendall(said)

        with contextlib.suppress(ConnectionResetError):
            received(connection)  # Until the server has closed the connection.

"""Who may ask a server that wants tokens."""

import json
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.client import RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from serving.tokens import Tokens, read_tokens
from tests.serving.conftest import is_healthy
from tests.serving.toy_models import EAST_QUERY
from tfrs_twotower.schema import UsageError, UserError

OLD, NEW = "an-old-token-of-24-chars", "the-new-token-of-24-char"


@pytest.mark.parametrize(
    ("value", "is_admitted"),
    [
        (f"Bearer {OLD}", True),
        (f"bearer {NEW}", True),
        (f"Bearer  {NEW} ", True),
        (NEW, False),
        (f"Basic {NEW}", False),
        (f"Bearer {NEW}x", False),
        (f"Bearer {NEW[:-1]}", False),
        ("Bearer ", False),
        ("Bearer é", False),
        ("", False),
        (None, False),
    ],
)
def test_one_of_the_tokens_admits(value, is_admitted):
    assert Tokens([OLD, NEW]).admit(value) is is_admitted


def test_a_file_has_a_token_a_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"{OLD}\n\n{NEW}\n")

    assert read_tokens(path).admit(f"Bearer {OLD}")
    assert read_tokens(path).admit(f"Bearer {NEW}")
    assert not read_tokens(path).admit("Bearer ")


@pytest.mark.parametrize(
    ("content", "said"),
    [("\n", "has no token"), ("short", "at least 16"), (16 * "é", "all ASCII")],
)
def test_a_file_without_a_token_that_is_hard_to_guess_is_refused(tmp_path, content, said):
    path = tmp_path / "tokens"
    path.write_text(content)

    with pytest.raises(UsageError, match=said):
        read_tokens(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read the token file .*nowhere"):
        read_tokens(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def guarded(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models, options=ServerOptions(tokens=Tokens([OLD, NEW]))) as server:
        yield server


@pytest.mark.parametrize("token", [OLD, NEW])
def test_a_client_with_a_token_is_answered(guarded, token):
    metadata = [("authorization", f"Bearer {token}")]
    with RetrievalClient(f"127.0.0.1:{guarded.port}", metadata=metadata) as client:
        assert client.recommend_one(EAST_QUERY, k=1).candidate_ids == ["a"]


@pytest.mark.parametrize("metadata", [(), [("authorization", "Bearer not-the-token-of-24-c")]])
def test_a_client_without_one_is_refused(guarded, metadata):
    with (
        RetrievalClient(f"127.0.0.1:{guarded.port}", metadata=metadata) as client,
        pytest.raises(UserError, match="authorization: Bearer TOKEN"),
    ):
        client.recommend_one(EAST_QUERY, k=1)


def test_health_checks_need_none_and_reflection_does(guarded):
    target = f"127.0.0.1:{guarded.port}"
    assert is_healthy(target)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter([request]), timeout=5))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("body", [None, b"{}", b"x" * 100_000])
def test_rest_answers_401_without_one(guarded, body):
    path = "" if body is None else ":predict"
    url = f"http://127.0.0.1:{guarded.rest_port}/v1/models/retrieval{path}"

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body), timeout=5)

    with caught.value as refused:
        assert refused.code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "authorization: Bearer TOKEN" in json.loads(refused.read())["error"]


def test_rest_answers_with_one_and_metrics_without(guarded):
    root = f"http://127.0.0.1:{guarded.rest_port}"
    asked = urllib.request.Request(f"{root}/v1/models/retrieval")
    asked.add_header("Authorization", f"Bearer {NEW}")
    with urllib.request.urlopen(asked, timeout=5) as reply:
        assert json.loads(reply.read())["model_version_status"][0]["state"] == "AVAILABLE"
    with urllib.request.urlopen(f"{root}/monitoring/prometheus/metrics", timeout=5) as reply:
        assert reply.status == 200

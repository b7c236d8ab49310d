"""Commands reach servers with TLS and tokens, and say what such a server lacks."""

import grpc
import pytest

from serving.access import OPEN, read_access
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from serving.rollout import Servers
from serving.tokens import Tokens
from tests.serving.test_tls import Signed
from tests.serving.toy_models import EAST_QUERY
from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.schema import UsageError, UserError

TOKEN = "0123456789abcdef"
VERSIONS, LABELS = {"retrieval": [3]}, {"retrieval": {"stable": 3}}


@pytest.fixture(scope="module")
def authority():
    return Signed("authority")


@pytest.fixture(scope="module")
def target(models_dir, authority):
    """A server with TLS that asks for a token."""
    own = Signed("server", authority)
    options = ServerOptions(
        credentials=grpc.ssl_server_credentials([(own.key_pem, own.pem)]), tokens=Tokens([TOKEN])
    )
    models = [ModelConfig("retrieval", models_dir / "retrieval", labels={"stable": 3})]
    with ModelServer(models, rest_port=None, options=options) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def files(authority, tmp_path):
    """The files that a command is given."""
    ca_file, token_file = tmp_path / "ca.pem", tmp_path / "tokens"
    ca_file.write_bytes(authority.pem)
    token_file.write_text(f"{TOKEN}\nanother-token-of-the-file\n")
    return {"ca_file": ca_file, "token_file": token_file}


def test_a_rollout_waits_for_such_a_server(target, files):
    servers = Servers([target], 20.0, lambda _: None, read_access(**files))

    servers.until_loaded(VERSIONS)
    servers.until_moved(LABELS)


def test_a_rollout_without_the_token_ends_at_once(target, files):
    access = read_access(files["ca_file"])

    with pytest.raises(UserError, match=r"UNAUTHENTICATED: .*\nGive the file .* --token_file"):
        Servers([target], 600.0, lambda _: None, access).until_loaded(VERSIONS)


def test_a_server_of_something_else_is_not_waited_for():
    server = grpc.server(None)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    with pytest.raises(UserError, match=r"UNIMPLEMENTED: .*\nName the gRPC port"):
        Servers([f"127.0.0.1:{port}"], 600.0, lambda _: None).until_loaded(VERSIONS)
    server.stop(None)


def test_recommend_asks_such_a_server(target, files):
    answer = api.recommend(None, EAST_QUERY, target=target, k=1, **files)

    assert answer.candidate_ids == ["a"]


def test_files_for_no_server_are_refused(files, tmp_path, capsys):
    with pytest.raises(UsageError, match="`ca_file` and `token_file`: name a target"):
        api.recommend(None, EAST_QUERY, token_file=files["token_file"])
    given = ["--models", str(tmp_path), "--token_file", str(files["token_file"])]
    assert main(["rollback", *given]) == 2
    assert "--wait_for: name one" in capsys.readouterr().err


def test_without_files_there_is_neither():
    assert read_access() == OPEN


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read the authority"), (b"no PEM", "must hold PEM")]
)
def test_an_authority_that_cannot_be_read_is_told(content, said, tmp_path):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(UsageError, match=said):
        read_access(path)

"""TLS and mutual TLS between server and client."""

import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving import errors
from serving.client import RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from serving.tls import read_server_credentials
from tests.serving.toy_models import EAST_QUERY
from tfrs_twotower.schema import UsageError

BEGIN, END = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)


class Signed:
    """A key and its certificate for 127.0.0.1, signed by `issuer` or by itself."""

    def __init__(self, name, issuer=None):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = issuer or self
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(END)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
            .add_extension(x509.SubjectAlternativeName([address]), False)
            .sign(signer.key, hashes.SHA256())
        )

    @property
    def key_pem(self):
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority():
    return Signed("authority")


def config_file(folder, **values):
    def text(value):
        return str(value).lower() if isinstance(value, bool) else repr(value.decode())

    path = folder / "ssl.config"
    path.write_text("\n".join(f"{name}: {text(value)}" for name, value in values.items()))
    return path


@pytest.fixture(params=[False, True], ids=["TLS", "mutual TLS"])
def secured(request, authority, models_dir, tmp_path):
    """A server, and whether it wants certificates of its clients."""
    own = Signed("server", authority)
    path = config_file(
        tmp_path,
        server_key=own.key_pem,
        server_cert=own.pem,
        custom_ca=authority.pem,
        client_verify=request.param,
    )
    options = ServerOptions(credentials=read_server_credentials(path))
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models, rest_port=None, options=options) as server:
        yield f"127.0.0.1:{server.port}", request.param


def test_a_client_with_the_right_credentials_is_answered(secured, authority):
    target, is_mutual = secured
    own = Signed("client", authority)
    pair = {"private_key": own.key_pem, "certificate_chain": own.pem} if is_mutual else {}
    credentials = grpc.ssl_channel_credentials(authority.pem, **pair)

    with RetrievalClient(target, credentials=credentials) as client:
        assert client.recommend_one(EAST_QUERY, k=1).candidate_ids == ["a"]


def test_a_client_without_them_is_not(secured, authority):
    target, is_mutual = secured
    stranger = Signed("stranger").pem
    credentials = grpc.ssl_channel_credentials(authority.pem if is_mutual else stranger)
    for given in (None, credentials):
        with (
            RetrievalClient(target, credentials=given, timeout_s=1.0) as client,
            pytest.raises((errors.UnavailableError, errors.DeadlineError)),
        ):
            client.recommend_one(EAST_QUERY, k=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({}, "server_key must hold PEM", id="nothing"),
        pytest.param({"server_key": b"-----BEGIN"}, "server_cert must hold", id="no certificate"),
        pytest.param(
            {"server_key": b"-----BEGIN", "server_cert": b"-----BEGIN", "client_verify": True},
            "custom_ca must hold",
            id="no authority",
        ),
        pytest.param({"key": b"x"}, "is not a TF Serving SSL config file", id="unknown key"),
    ],
)
def test_a_config_that_lacks_something_is_refused(tmp_path, given, said):
    with pytest.raises(UsageError, match=said):
        read_server_credentials(config_file(tmp_path, **given))

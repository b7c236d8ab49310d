"""TF Serving's `--ssl_config_file`: TLS, and mutual TLS, of the gRPC port."""

from pathlib import Path

import grpc

from serving.text_protos import read_text_proto
from tfrs_twotower.schema import UsageError

_FIELDS = {
    "server_key": "string",
    "server_cert": "string",
    "custom_ca": "string",
    "client_verify": "bool",
}


def read_server_credentials(path: str | Path) -> grpc.ServerCredentials:
    """Reads an SSL config file.

    Args:
        path: An `SSLConfig` in protobuf's text format: `server_key` and `server_cert` in PEM;
            with `client_verify` only clients with a certificate that `custom_ca` signed.

    Raises:
        UsageError: If it cannot be read, is not such a file, or lacks what it needs.
    """
    proto = read_text_proto(path, "SSLConfig", _FIELDS, "SSL config file")
    for name in ("server_key", "server_cert", *(["custom_ca"] if proto.client_verify else [])):
        if "-----BEGIN" not in getattr(proto, name):
            raise UsageError(f"{path}: {name} must hold PEM, the text between BEGIN and END")
    return grpc.ssl_server_credentials(
        [(proto.server_key.encode(), proto.server_cert.encode())],
        root_certificates=proto.custom_ca.encode() or None,
        require_client_auth=proto.client_verify,
    )

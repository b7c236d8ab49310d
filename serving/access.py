"""How a command reaches a server with TLS, or one that asks for a token."""

from pathlib import Path
from typing import NamedTuple

import grpc

from tfrs_twotower.schema import UsageError


class Access(NamedTuple):
    """What a client needs beside the address.

    Attributes:
        credentials: For TLS; None: no encryption.
        metadata: Sent with each call.
    """

    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def channel(self, target: str) -> grpc.Channel:
        """A channel to a server, to be closed."""
        if self.credentials is None:
            return grpc.insecure_channel(target)
        return grpc.secure_channel(target, self.credentials)


OPEN = Access()  # Neither TLS nor tokens.


def read_access(ca_file: str | Path | None = None, token_file: str | Path | None = None) -> Access:
    """Reads the files that the options of a command name.

    Args:
        ca_file: PEM of the authority that signed the server's certificate; None: no encryption.
        token_file: As `serve --token_file` takes it; its first token is sent. None: none is.

    Raises:
        UsageError: If a file cannot be read, or is not what it should be.
    """
    credentials = None
    if ca_file is not None:
        try:
            authority = Path(ca_file).read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read the authority {ca_file}: {error}") from error
        if b"-----BEGIN" not in authority:
            raise UsageError(f"{ca_file} must hold PEM, the text between BEGIN and END")
        credentials = grpc.ssl_channel_credentials(authority)
    if token_file is None:
        return Access(credentials)
    from serving.tokens import AUTHORIZATION, read_token  # It needs more than a client has.

    return Access(credentials, ((AUTHORIZATION, f"Bearer {read_token(token_file)}"),))

"""One S3 client for all operations of a process.

Beam's S3 file system makes a client of boto3 for each operation, which takes a tenth to a third of
a second of the processor: minutes for a folder of small files. boto3's clients may be shared by
threads, Beam's wrappers around them may not.
"""

import functools
import os
from types import SimpleNamespace
from typing import Any


def share() -> None:
    """Makes Beam's S3 file system share clients; does nothing without the extra `aws`."""
    try:
        import boto3
        from apache_beam.io.aws.clients.s3 import boto3_client
    except ImportError:
        return

    @functools.cache
    def client_of(_: Any, **options: Any) -> Any:
        return boto3.session.Session().client(**options)

    # All that Beam takes of boto3 is a session, and of the session a client.
    shared = SimpleNamespace(client=lambda **options: client_of(_environment(), **options))
    session = SimpleNamespace(Session=lambda: shared)
    boto3_client.boto3 = SimpleNamespace(session=session)  # type: ignore[attr-defined]


def _environment() -> frozenset[tuple[str, str]]:
    """What else decides where a client goes, and as whom."""
    return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))

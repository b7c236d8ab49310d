"""Stores on this machine that speak the protocols of the real ones, in processes of their own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

LOOPBACK = "127.0.0.1"
BUCKET = "bucket"
# Nobody checks these.
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class Server(NamedTuple):
    """A store that answers."""

    root: str  # URL of a bucket.
    environment: dict[str, str]  # What a process needs in order to find it.


@contextmanager
def gcs_server() -> Iterator[Server]:
    """Runs gcp-storage-emulator with an empty bucket."""
    port = free_port()
    command = [
        sys.executable, "-m", "gcp_storage_emulator", "start", f"--host={LOOPBACK}",
        f"--port={port}", f"--default-bucket={BUCKET}", "--in-memory", "--quiet",
    ]  # fmt: skip
    with running(command, port):
        # Google's client asks a machine that is none of Google's for its account otherwise.
        environment = {"NO_GCE_CHECK": "true", "GOOGLE_CLOUD_PROJECT": "test"}
        for name in ("STORAGE_EMULATOR_HOST", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
            environment[name] = f"http://{LOOPBACK}:{port}"
        yield Server(f"gs://{BUCKET}", environment)


@contextmanager
def s3_server() -> Iterator[Server]:
    """Runs moto's S3 server with an empty bucket."""
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    with running(command, port):
        request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        environment = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1", **S3_KEYS}
        yield Server(f"s3://{BUCKET}", environment)


@contextmanager
def running(
    command: list[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """Runs a server until the block ends; the block begins when the port answers."""
    process = subprocess.Popen(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of the loopback address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    """Waits until something listens on a port.

    Raises:
        RuntimeError: If the process ends before.
        TimeoutError: If nothing listens after the given time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            socket.create_connection((LOOPBACK, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens on port {port}")

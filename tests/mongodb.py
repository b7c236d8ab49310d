"""A server on this machine that speaks MongoDB's protocol: FerretDB on SQLite."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.pipelines.stores.servers import LOOPBACK, free_port, running

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()


def ferretdb() -> str | None:
    """The program, where `.ci/ferretdb` has built it or the path has it."""
    return shutil.which(CACHE / "tfrs_twotower" / "ferretdb") or shutil.which("ferretdb")


@contextmanager
def server(program: str, folder: Path) -> Iterator[str]:
    """Runs it with its files in a folder; gives the address, to which a database is appended."""
    port = free_port()
    command = [
        program, "--handler=sqlite", f"--sqlite-url=file:{folder}/", f"--state-dir={folder}",
        f"--listen-addr={LOOPBACK}:{port}", "--debug-addr=-", "--telemetry=disable",
    ]  # fmt: skip
    with running(command, port):
        yield f"mongodb://{LOOPBACK}:{port}"

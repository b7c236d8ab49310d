"""A prepared folder as its readers see it: what the manifest names, wherever the folder is."""

import json
from pathlib import Path
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tests.pipelines.prepare.test_runners import contents

MANIFEST = "manifest.json"


def is_published(folder: str) -> bool:
    """Whether the folder has a manifest: whether readers take it."""
    return FileSystems.exists(f"{folder}/{MANIFEST}")


def fetch(folder: str, to: Path) -> dict[str, Any]:
    """Copies a manifest and the files that it names to a local folder; gives what that says."""
    manifest = json.loads(_read(f"{folder}/{MANIFEST}"))
    named = [file["path"] for group in manifest["files"].values() for file in group]
    for name in (MANIFEST, *named):
        local = to / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(_read(f"{folder}/{name}"))
    return contents(to)


def _read(path: str) -> bytes:
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return file.read()

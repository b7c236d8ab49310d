"""Small worlds on disk, and the job run on them."""

import json
from pathlib import Path

import pytest

from pipelines.prepare import prepare
from tfrs_twotower.schema import parse_config


@pytest.fixture
def world(tmp_path):
    """Writes a dataset folder and prepares it."""
    return World(tmp_path)


class World:
    def __init__(self, path: Path) -> None:
        self.dataset, self.output = path / "dataset", path / "prepared"
        self.dataset.mkdir()

    def write(self, name, text):
        """Writes a file of the dataset; text may be bytes."""
        data = text if isinstance(text, bytes) else text.encode()
        (self.dataset / name).write_bytes(data)

    def write_json_lines(self, name, rows):
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def prepare(self, config="", **options):
        return prepare(
            parse_config(config, "twotower.yaml"), str(self.dataset), str(self.output), **options
        )

    def rejected(self):
        """(row, reason) of every rejected record, by file."""
        return {
            path.name.rpartition("-")[0]: [
                (line["row"], line["reason"])
                for line in map(json.loads, path.read_text().splitlines())
            ]
            for path in sorted(self.output.glob("run-*/rejected/*.jsonl"))
        }

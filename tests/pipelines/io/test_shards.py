"""Files of records: how large they become."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pipelines.io import shards
from pipelines.io.example_records import BYTES, Field, RecordLayout
from pipelines.io.filesystem import join
from pipelines.io.output import Run
from pipelines.io.shards import write_records


def blocks_of(num_blocks):
    """Blocks of 5,000 records of bytes that no one can pack."""
    layout = RecordLayout([Field("x", BYTES, 100)])
    draw = np.random.default_rng(1)
    for _ in range(num_blocks):
        values = draw.integers(1, 256, (5000, 100), np.uint8).view("S100").reshape(-1)
        yield layout.encode({"x": values})


@pytest.fixture
def run(tmp_path):
    return Run(str(tmp_path), "run-1")


def read(run, file):
    path = join(run.output, file.path)
    dataset = tf.data.TFRecordDataset(path, compression_type="GZIP")
    return [record.numpy() for record in dataset]


@pytest.mark.parametrize(
    ("num_blocks", "blocks_a_file"),
    [
        pytest.param(0, [], id="no-record"),
        pytest.param(1, [1], id="one-block"),
        pytest.param(2, [2], id="a-full-file"),
        pytest.param(5, [2, 2, 1], id="three", marks=pytest.mark.slow),
    ],
)
def test_a_file_that_is_full_is_followed_by_another(run, monkeypatch, num_blocks, blocks_a_file):
    # A block is about 600,000 bytes: two fill a file.
    monkeypatch.setattr(shards, "SHARD_BYTES", 900_000)

    files, _ = write_records(run, "train-00007", blocks_of(num_blocks))

    assert [file.rows for file in files] == [5000 * blocks for blocks in blocks_a_file]
    for number, file in enumerate(files):
        assert re.fullmatch(f"run-1/train-00007-{number:05d}-[0-9a-f]{{16}}.tfrecord.gz", file.path)
        data = (Path(run.output) / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
    monkeypatch.undo()
    [whole] = write_records(run, "whole", blocks_of(num_blocks)).files if num_blocks else [None]
    records = read(run, whole) if whole else []
    assert [record for file in files for record in read(run, file)] == records
    assert len(records) == 5000 * num_blocks


def test_two_attempts_at_the_same_records_write_two_files_of_the_same_bytes(run):
    [first] = write_records(run, "train-00007", blocks_of(1)).files
    [second] = write_records(run, "train-00007", blocks_of(1)).files

    assert first.path != second.path
    assert first.sha256 == second.sha256


def test_the_digests_of_parts_add_up_to_that_of_the_whole_in_any_order(run):
    def digest(name, *blocks):
        return write_records(run, name, blocks).digest

    first, second, third = blocks_of(3)
    changed = third.copy()
    changed[0] = second[0]

    whole = digest("whole", first, second, third)
    assert (digest("a", third) + digest("b", second, first) - whole) % 2**64 == 0
    assert digest("none") == 0
    assert (digest("changed", first, second, changed) - whole) % 2**64 != 0

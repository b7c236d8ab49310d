"""Files of records: how large they become."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.io import shards
from pipelines.io.example_records import BYTES, Field, RecordLayout
from pipelines.io.shards import write_records


def blocks_of(num_blocks):
    """Blocks of 5,000 records of bytes that no one can pack."""
    layout = RecordLayout([Field("x", BYTES, 100)])
    draw = np.random.default_rng(1)
    for _ in range(num_blocks):
        values = draw.integers(1, 256, (5000, 100), np.uint8).view("S100").reshape(-1)
        yield layout.encode({"x": values})


def read(path):
    dataset = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
    return [record.numpy() for record in dataset]


@pytest.mark.parametrize(
    ("num_blocks", "names"),
    [
        pytest.param(0, [], id="no-record"),
        pytest.param(1, ["train-00007"], id="one-block"),
        pytest.param(2, ["train-00007"], id="a-full-file"),
        pytest.param(5, ["train-00007", "train-00007-00001", "train-00007-00002"], id="three"),
    ],
)
def test_a_file_that_is_full_is_followed_by_another(tmp_path, monkeypatch, num_blocks, names):
    # A block is about 600,000 bytes: two fill a file.
    monkeypatch.setattr(shards, "SHARD_BYTES", 900_000)

    write_records(str(tmp_path / "train-00007"), blocks_of(num_blocks), str(tmp_path / "staging"))

    files = [tmp_path / f"{name}.tfrecord.gz" for name in names]
    assert set(tmp_path.glob("*.gz")) == set(files)
    monkeypatch.undo()
    write_records(str(tmp_path / "whole"), blocks_of(num_blocks), str(tmp_path / "staging"))
    whole = read(tmp_path / "whole.tfrecord.gz") if num_blocks else []
    assert [record for path in files for record in read(path)] == whole
    assert len(whole) == 5000 * num_blocks


def test_the_digests_of_parts_add_up_to_that_of_the_whole_in_any_order(tmp_path):
    def digest(name, *blocks):
        return write_records(str(tmp_path / name), blocks, str(tmp_path / "staging"))

    first, second, third = blocks_of(3)
    changed = third.copy()
    changed[0] = second[0]

    whole = digest("whole", first, second, third)
    assert (digest("a", third) + digest("b", second, first) - whole) % 2**64 == 0
    assert digest("none") == 0
    assert (digest("changed", first, second, changed) - whole) % 2**64 != 0

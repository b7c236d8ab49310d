"""Records written many at a time are what TensorFlow reads."""

import zlib

import numpy as np
import pytest
import tensorflow as tf

from pipelines.io.example_records import BYTES, FLOAT, INT, Field, RecordLayout, int_width


@pytest.mark.parametrize(
    ("largest", "width"), [(0, 1), (127, 1), (128, 2), (16383, 2), (16384, 3), (2**63 - 1, 9)]
)
def test_the_width_of_an_integer_is_that_of_its_varint(largest, width):
    assert int_width(largest) == width


@pytest.fixture
def written(tmp_path):
    fields = [
        Field("ids", INT, 3, 2),
        Field("time", INT, 1, 5),
        Field("weight", FLOAT, 1),
        Field("vector", FLOAT, 4),
        Field("none", INT, 0),
        Field("key", BYTES, 5),
        # A name and a value long enough for lengths of two bytes.
        Field("x" * 130, FLOAT, 40),
    ]
    chance = np.random.default_rng(3)
    size = 5000
    values = {
        "ids": chance.integers(0, 2**14, (size, 3)),
        "time": chance.integers(0, 2**35, size),
        "weight": chance.normal(size=size).astype(np.float32),
        "vector": np.full((size, 4), np.nan, np.float32),
        "none": np.zeros((size, 0), np.int64),
        "key": np.array([f"k{n:04d}".encode() for n in range(size)]),
        "x" * 130: chance.normal(size=(size, 40)).astype(np.float32),
    }
    values["ids"][0], values["time"][0] = [0, 127, 16383], 2**35 - 1
    path = tmp_path / "records"
    path.write_bytes(RecordLayout(fields).encode(values).tobytes())
    return path, values


def test_tensorflow_reads_every_record_and_its_checksums(written):
    path, values = written

    # The reader checks the checksums of every record.
    records = [data.numpy() for data in tf.data.TFRecordDataset(str(path))]

    assert len(records) == len(values["time"])


def test_fast_and_slow_parsers_read_the_same_values(written):
    path, values = written
    records = [data.numpy() for data in tf.data.TFRecordDataset(str(path))]

    slow = tf.train.Example.FromString(records[7]).features.feature
    fast = tf.io.parse_example(
        records,
        {
            "ids": tf.io.FixedLenFeature([3], tf.int64),
            "time": tf.io.FixedLenFeature([], tf.int64),
            "weight": tf.io.FixedLenFeature([], tf.float32),
            "vector": tf.io.FixedLenFeature([4], tf.float32),
            "key": tf.io.FixedLenFeature([], tf.string),
            "x" * 130: tf.io.FixedLenFeature([40], tf.float32),
        },
    )

    for name in fast:
        np.testing.assert_array_equal(fast[name].numpy(), values[name])
    assert list(slow["ids"].int64_list.value) == values["ids"][7].tolist()
    assert list(slow["none"].int64_list.value) == []
    assert slow["key"].bytes_list.value[0] == b"k0007"


def test_records_do_not_depend_on_the_batch():
    layout = RecordLayout([Field("a", INT, 1, 3), Field("b", FLOAT, 2)])
    a, b = np.arange(9000), np.arange(18000, dtype=np.float32).reshape(-1, 2)

    whole = layout.encode({"a": a, "b": b})
    parts = [layout.encode({"a": a[s], "b": b[s]}) for s in (slice(0, 1), slice(1, 9000))]

    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_the_checksum_is_crc32c():
    # The check value of CRC-32C, of the digits 1 to 9.
    from pipelines.io.example_records import _crc

    assert _crc(b"123456789") == 0xE3069283
    assert zlib.crc32(b"123456789") != 0xE3069283

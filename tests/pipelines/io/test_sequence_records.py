"""Sequences of unequal length are what TensorFlow reads."""

import numpy as np
import pytest
import tensorflow as tf

from pipelines.io import sequence_records
from pipelines.io.example_records import FLOAT, INT, Field
from pipelines.io.sequence_records import SequenceLayout

LAYOUT = SequenceLayout(
    [Field("query", INT, 1, 2), Field("age", FLOAT, 1)],
    [Field("row", INT, 1, 3), Field("weight", FLOAT, 1), Field("tokens", INT, 2, 1)],
)
# Three queries with 1, 300 and 2 positions: lengths of one byte and of more.
SIZES = np.array([1, 300, 2])
VALUES = {
    "query": np.array([7, 0, 16383]),
    "age": np.array([1.5, np.nan, -2.0], np.float32),
    "row": np.arange(303) * 6000,
    "weight": np.arange(303).astype(np.float32),
    "tokens": np.arange(606).reshape(303, 2) % 128,
}


@pytest.mark.parametrize("batch", [1, 302, 1 << 15])
def test_every_query_has_its_own_values_whatever_the_batch(monkeypatch, batch):
    monkeypatch.setattr(sequence_records, "BATCH_POSITIONS", batch)

    records = list(LAYOUT.encode(VALUES, SIZES))

    ends = np.cumsum(SIZES)
    assert len(records) == 3
    for number, data in enumerate(records):
        own = slice(ends[number] - SIZES[number], ends[number])
        feature = tf.train.Example.FromString(data).features.feature
        np.testing.assert_array_equal(feature["age"].float_list.value, VALUES["age"][[number]])
        assert feature["query"].int64_list.value == [VALUES["query"][number]]
        assert feature["row"].int64_list.value == VALUES["row"][own].tolist()
        assert feature["weight"].float_list.value == VALUES["weight"][own].tolist()
        assert feature["tokens"].int64_list.value == VALUES["tokens"][own].reshape(-1).tolist()


def test_the_fast_parser_reads_ragged_positions():
    parsed = tf.io.parse_example(
        list(LAYOUT.encode(VALUES, SIZES)), {"row": tf.io.RaggedFeature(tf.int64)}
    )

    assert parsed["row"].row_lengths().numpy().tolist() == SIZES.tolist()
    assert parsed["row"].values.numpy().tolist() == VALUES["row"].tolist()


def test_no_query_has_no_record():
    nothing = {name: values[:0] for name, values in VALUES.items()}

    assert list(LAYOUT.encode(nothing, SIZES[:0])) == []

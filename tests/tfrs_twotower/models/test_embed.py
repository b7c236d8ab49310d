"""Embeddings of many entries are those of each entry."""

import numpy as np
import pytest

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.schema import TrainingDiverged


class SumTower(keras.Model):
    """As one may write it who has no config: any structure of inputs."""

    def call(self, inputs: dict, training: bool | None = None) -> tf.Tensor:
        values = inputs["values"] + tf.cast(inputs["more"]["rows"], tf.float32)[:, tf.newaxis]
        return 2 * values if training else values


def test_entries_are_embedded_batch_by_batch_in_their_order():
    values, rows = np.arange(14, dtype=np.float32).reshape(7, 2), np.arange(0, 70, 10)

    embeddings = embed(SumTower(), {"values": values, "more": {"rows": rows}}, batch_size=3)

    np.testing.assert_array_equal(embeddings, values + rows[:, np.newaxis])


class ReadsToTheLongest(keras.Model):
    """The sum of each list; notes what each batch had to read."""

    trimmed = ("past",)

    def __init__(self) -> None:
        super().__init__()
        self.widths = []

    def call(self, inputs: dict, training: bool | None = None) -> tf.Tensor:
        past = tf.constant(inputs["past"])
        self.widths.append(int(tf.reduce_max(tf.math.count_nonzero(past, axis=1))))
        return tf.cast(tf.reduce_sum(past, axis=1, keepdims=True), tf.float32)


def test_entries_of_like_length_are_embedded_together_and_come_back_in_their_order():
    past = np.array([[5, 6, 7, 8], [1, 0, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0], [4, 5, 6, 0]])
    tower = ReadsToTheLongest()

    embeddings = embed(tower, {"past": past}, batch_size=2)

    assert embeddings.tolist() == [[26], [1], [5], [0], [15]]
    assert tower.widths == [1, 3, 4]


def test_a_tower_of_plain_arrays_is_as_good():
    tower = keras.Sequential([keras.layers.Lambda(lambda values: -values)])

    np.testing.assert_array_equal(
        embed(tower, np.ones([5, 2], np.float32), batch_size=4), -np.ones([5, 2])
    )


def test_embeddings_that_are_not_finite_are_refused():
    tower = keras.Sequential([keras.layers.Lambda(tf.math.log)], name="query_tower")

    with pytest.raises(TrainingDiverged, match="query_tower gives values that are not finite"):
        embed(tower, np.array([[1.0], [-1.0]], np.float32))

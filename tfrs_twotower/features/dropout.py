"""Dropout that goes on where it was after a resume."""

from tfrs_twotower.keras import keras, tf


class ResumableDropout(keras.layers.Layer):
    """Dropout whose random state is in checkpoints; that of Keras' own layer is not."""

    def __init__(self, rate: float, seed: int) -> None:
        """Drops a share of `rate` of the entries, drawn by `seed`."""
        super().__init__()
        self._rate = rate
        self._generator = tf.random.Generator.from_seed(seed)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Zeroes entries and scales the others up, in training only."""
        if not training or not self._rate:
            return inputs
        seed = self._generator.make_seeds(1)[:, 0]
        return tf.nn.experimental.stateless_dropout(inputs, self._rate, seed)

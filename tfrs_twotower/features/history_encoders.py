"""Encoders of a history that read its candidates in their order.

An encoder is causal: its state at a place depends on that place and those before it. So one pass
over a history gives the state before each of its events, and training steps over all of them at
once. A history fills the front of its row; the padding behind it is read by no place.
"""

from typing import NamedTuple

from tfrs_twotower.features.dropout import ResumableDropout
from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema.features import History

DEFAULT_BLOCKS, DEFAULT_HEADS, DEFAULT_CONVOLUTION, DEFAULT_DROPOUT = 2, 1, 8, 0.1
POSITION_SCALE = 0.02
# Gates start nearly closed, at 0.12: a query starts close to the embedding of the last candidate.
GATE_BIAS = -2.0
NOTHING_BEFORE = -1  # The place before the first.


class SharedHistories(NamedTuple):
    """An ordered history as training batches hold it: several examples share one.

    A short history in a wide matrix costs as much as a long one, so histories of like length stand
    together, in a few matrices whose widths are those of every batch: one graph for all of them.

    rows: For each width `[num_histories, width]` int candidate id rows, padding at the end; a batch
        may have none of a width.
    places: `[batch]` int32; for each example the last candidate before it, counted over the entries
        of the first matrix, row by row, then of the next one; -1 where nothing is before.
    """

    rows: tuple[tf.Tensor, ...]
    places: tf.Tensor


def history_encoder(feature: History, width: int, *, seed: int, name: str) -> keras.layers.Layer:
    """The encoder that an ordered history asks for.

    Args:
        feature: A history with `encoder: gru` or `attention`.
        width: Of the candidates' embeddings.
        seed: Of the initial weights and of dropout.
        name: Of the layer.

    Returns:
        A layer `[batch, length, width]` -> `[batch, length, units]` float32.
    """
    if feature.encoder == "gru":
        return RecurrentHistory(feature, feature.embedding_dim or width, seed=seed, name=name)
    return AttentiveHistory(feature, width, seed=seed, name=name)


class RecurrentHistory(keras.layers.Layer):
    """A GRU over the candidates' embeddings.

    References:
        Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.
    """

    def __init__(self, feature: History, units: int, *, seed: int, name: str) -> None:
        """Makes the cell; see `history_encoder`."""
        super().__init__(name=name)
        self._dropout = ResumableDropout(feature.dropout or 0.0, seed_of(seed, "dropout"))
        # Not `keras.layers.GRU`: that would put operations of other devices into served graphs.
        self._cells = keras.layers.RNN(
            keras.layers.GRUCell(
                units,
                kernel_initializer=keras.initializers.GlorotUniform(seed_of(seed, "kernel")),
                recurrent_initializer=keras.initializers.Orthogonal(
                    seed=seed_of(seed, "recurrent_kernel")
                ),
            ),
            return_sequences=True,
        )

    def call(self, vectors: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """See `history_encoder`."""
        return self._cells(self._dropout(vectors, training=training))


class AttentiveHistory(keras.layers.Layer):
    """Causal convolution and self-attention over the candidates' embeddings and learned positions.

    Position 0 is the oldest candidate that is read, in training and in serving.

    References:
        Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018: the blocks.
        Allen-Zhu, Physics of Language Models: Part 4.1, 2025: convolution ahead of attention.
        Borisyuk et al., From Features to Transformers (LiGR), 2025: gates.
    """

    def __init__(self, feature: History, width: int, *, seed: int, name: str) -> None:
        """Stacks the blocks; see `history_encoder`.

        Raises:
            ValueError: If the heads do not divide the width.
        """
        super().__init__(name=name)
        heads = feature.heads or DEFAULT_HEADS
        convolution = DEFAULT_CONVOLUTION if feature.convolution is None else feature.convolution
        dropout = DEFAULT_DROPOUT if feature.dropout is None else feature.dropout
        if width % heads:
            raise ValueError(f"`heads` must divide the width of the candidate's id: {width}.")
        self._scale = width**0.5
        self._positions = self.add_weight(
            "positions",
            [feature.length, width],
            initializer=keras.initializers.RandomNormal(
                stddev=POSITION_SCALE, seed=seed_of(seed, "positions")
            ),
        )
        self._dropout = ResumableDropout(dropout, seed_of(seed, "dropout"))
        self._blocks = [
            AttentionBlock(
                width, heads, convolution, dropout, seed=seed_of(seed, f"block/{number}")
            )
            for number in range(feature.blocks or DEFAULT_BLOCKS)
        ]
        self._norm = keras.layers.LayerNormalization(epsilon=1e-6)

    def call(self, vectors: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """See `history_encoder`."""
        length = tf.shape(vectors)[1]
        # As in SASRec: unscaled, a candidate would start no larger than its position does.
        states = self._scale * vectors + self._positions[:length]
        states = self._dropout(states, training=training)
        for block in self._blocks:
            states = block(states, training=training)
        return self._norm(states)


class AttentionBlock(keras.layers.Layer):
    """Causal convolution, causal self-attention, then two dense layers.

    Each is added to what it reads. The last two read it normalised, and a gate says how much of
    theirs is added.
    """

    def __init__(
        self, width: int, heads: int, convolution: int, dropout: float, *, seed: int
    ) -> None:
        """Makes the layers.

        Args:
            width: Of the states, in and out.
            heads: Divides the width.
            convolution: Places that it joins, 0 for none.
            dropout: Of attention weights and of both outputs.
            seed: Of the initial weights and of dropout.
        """
        super().__init__()
        self._heads = heads
        self._convolution = ShortConvolution(convolution) if convolution else None

        def dense(
            name: str, activation: str | None = None, bias: float = 0.0
        ) -> keras.layers.Dense:
            return keras.layers.Dense(
                width,
                activation,
                kernel_initializer=keras.initializers.GlorotUniform(seed_of(seed, name)),
                bias_initializer=keras.initializers.Constant(bias),
            )

        self._query, self._key, self._value = dense("query"), dense("key"), dense("value")
        self._joined = dense("joined")
        self._forward = [dense("forward/0", "relu"), dense("forward/1")]
        self._gates = [dense(f"gate/{number}", "sigmoid", GATE_BIAS) for number in range(2)]
        self._norms = [keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self._dropouts = [
            ResumableDropout(dropout, seed_of(seed, f"dropout/{number}")) for number in range(3)
        ]

    def call(self, states: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """`[batch, length, width]` -> the same."""
        if self._convolution is not None:
            states += self._convolution(states)
        attended = self._attended(self._norms[0](states), training)
        attended *= self._gates[0](states)
        states += self._dropouts[1](attended, training=training)
        forward = self._forward[1](self._forward[0](self._norms[1](states)))
        forward *= self._gates[1](states)
        return states + self._dropouts[2](forward, training=training)

    def _attended(self, states: tf.Tensor, training: bool | None) -> tf.Tensor:
        queries, keys, values = (
            self._split(layer(states)) for layer in (self._query, self._key, self._value)
        )
        size = int(queries.shape[-1])
        logits = tf.matmul(queries * size**-0.5, keys, transpose_b=True)
        is_before = tf.linalg.band_part(tf.ones(tf.shape(logits)[2:], tf.bool), -1, 0)
        # Every place sees itself, so no row is all minimum; padding is behind and seen by none.
        weights = tf.nn.softmax(tf.where(is_before, logits, logits.dtype.min))
        weights = self._dropouts[0](weights, training=training)
        joined = tf.transpose(tf.matmul(weights, values), [0, 2, 1, 3])
        return self._joined(tf.reshape(joined, tf.shape(states)))

    def _split(self, states: tf.Tensor) -> tf.Tensor:
        """`[batch, length, width]` -> `[batch, heads, length, width / heads]`."""
        shape = tf.shape(states)
        size = int(states.shape[-1]) // self._heads
        split = tf.reshape(states, [shape[0], shape[1], self._heads, size])
        return tf.transpose(split, [0, 2, 1, 3])


class ShortConvolution(keras.layers.Layer):
    """A weighted sum of each place and the last ones before it, channel by channel.

    What comes next depends most on what came last. Attention has to learn from its positions which
    places these are; here each distance has weights of its own. They start at zero.
    """

    def __init__(self, places: int) -> None:
        """Makes the weights.

        Args:
            places: How many are summed, at least 1.
        """
        super().__init__()
        self._places = places
        self._sum = keras.layers.DepthwiseConv1D(
            places, use_bias=False, depthwise_initializer="zeros"
        )

    def call(self, states: tf.Tensor) -> tf.Tensor:
        """`[batch, length, width]` -> the same."""
        sums = self._sum(tf.pad(states, [[0, 0], [self._places - 1, 0], [0, 0]]))
        # Cut, since TensorFlow's kernel leaves an empty batch as long as it was padded.
        return sums[:, : tf.shape(states)[1]]

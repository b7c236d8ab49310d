"""The query tower and the candidate tower, built from the config."""

from collections.abc import Mapping

from tfrs_twotower.features import DenseFeatures, embedding_table
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.config import Tower as TowerConfig
from tfrs_twotower.schema.features import WITH_VOCABULARY, Feature, History, Text
from tfrs_twotower.schema.prepared import NumberStatistics

Tables = Mapping[str, keras.layers.Embedding]


def embedding_tables(config: Config, num_rows: Mapping[str, int]) -> Tables:
    """One embedding table for each embedded feature; a history reads the candidate ids' table.

    Args:
        config: Features and widths.
        num_rows: Rows by feature name; see `Encoder.num_rows`.
    """
    features: dict[str, Feature] = {**config.query_features, **config.candidate_features}
    tables = {
        name: embedding_table(
            feature,
            num_rows[name],
            config.towers.embedding_dim,
            name=name,
            seed=config.training.seed + order,
        )
        for order, (name, feature) in enumerate(features.items())
        if isinstance(feature, (*WITH_VOCABULARY, Text))
    }
    for name, feature in features.items():
        if isinstance(feature, History) and config.candidate_id_feature is not None:
            tables[name] = tables[config.candidate_id_feature[0]]
    return tables


class ResumableDropout(keras.layers.Layer):
    """Dropout whose random state is in checkpoints, which that of Keras' own layer is not."""

    def __init__(self, rate: float, seed: int) -> None:
        """Drops a share of `rate`, in an order that `seed` decides."""
        super().__init__()
        self._rate = rate
        self._generator = tf.random.Generator.from_seed(seed)

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Zeroes entries and scales the others up, in training only."""
        if not training or not self._rate:
            return inputs
        seed = self._generator.make_seeds(1)[:, 0]
        return tf.nn.experimental.stateless_dropout(inputs, self._rate, seed)


class Tower(keras.Model):
    """Dense features -> hidden layers -> an L2-normalised embedding.

    Call argument: encoded features by name. Result: `[batch, embedding_dim]` float32 of length 1
    (of length 0 where nothing is known).
    """

    def __init__(
        self, features: DenseFeatures, config: TowerConfig, embedding_dim: int, seed: int, name: str
    ) -> None:
        """Stacks the layers; weights start as `seed` says."""
        super().__init__(name=name)
        self._dense_features = features
        self._embedding_dim = embedding_dim
        self._hidden = [
            layer
            for order, units in enumerate(config.hidden_units)
            for layer in (
                keras.layers.Dense(
                    units, config.activation, kernel_initializer=_glorot(seed + order)
                ),
                ResumableDropout(config.dropout, seed + order),
            )
        ]
        self._output = keras.layers.Dense(
            embedding_dim, use_bias=False, kernel_initializer=_glorot(seed - 1), name="output"
        )

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """See the class."""
        hidden = self._dense_features(encoded)
        for layer in self._hidden:
            hidden = layer(hidden, training=training)
        # A single id of the right width is the embedding itself: matrix factorisation.
        if self._hidden or hidden.shape[-1] != self._embedding_dim:
            hidden = self._output(hidden)
        return tf.math.l2_normalize(hidden, axis=-1)


class QueryTower(Tower):
    """Query and context features -> query embedding."""

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds the tower that the config describes."""
        seed, towers = config.training.seed + 1000, config.towers
        features = DenseFeatures(
            config.query_features, tables, statistics, seed=seed, name="query_features"
        )
        super().__init__(features, towers.query, towers.embedding_dim, seed, "query_tower")


class CandidateTower(Tower):
    """Candidate features -> candidate embedding."""

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds the tower that the config describes."""
        seed, towers = config.training.seed + 2000, config.towers
        features = DenseFeatures(
            config.candidate_features, tables, statistics, seed=seed, name="candidate_features"
        )
        super().__init__(features, towers.candidate, towers.embedding_dim, seed, "candidate_tower")


def _glorot(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed)

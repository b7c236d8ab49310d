"""The query tower and the candidate tower, built from the config."""

from collections.abc import Mapping

import numpy as np

from tfrs_twotower.features.dense import DenseFeatures, embedding_table
from tfrs_twotower.features.dropout import ResumableDropout
from tfrs_twotower.features.history_candidates import HistoryCandidates
from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import WITH_VOCABULARY, Feature, Text
from tfrs_twotower.schema.prepared import NumberStatistics
from tfrs_twotower.schema.towers import Tower as TowerConfig

Tables = Mapping[str, keras.layers.Layer]
# Vectors shorter than this are not brought to length 1 but scaled up by the inverse of it.
MIN_LENGTH = 0.01


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
            seed=seed_of(config.training.seed, f"embedding/{name}"),
        )
        for name, feature in features.items()
        if isinstance(feature, (*WITH_VOCABULARY, Text))
    }
    if config.history is not None and config.candidate_id is not None:
        tables[config.history.name] = tables[config.candidate_id.name]
    return tables


def history_table(
    config: Config,
    tables: Tables,
    statistics: Mapping[str, NumberStatistics],
    encoded: Mapping[str, np.ndarray],
) -> HistoryCandidates:
    """What embeds the candidates of a history that reads their features.

    Args:
        config: Names the features.
        tables: Of the candidate features.
        statistics: Of the number features.
        encoded: See `by_history_row`.
    """
    assert config.history is not None
    assert config.candidate_id is not None
    id_name = config.candidate_id.name
    features = config.history_candidate_features
    seed = seed_of(config.training.seed, "history_candidates")
    dense = DenseFeatures(
        {name: feature for name, feature in features.items() if name != id_name},
        tables,
        statistics,
        seed=seed,
        name="history_candidate_features",
    )
    return HistoryCandidates(
        id_name, tables[id_name], dense, encoded, seed=seed, name=config.history.name
    )


class Tower(keras.Model):
    """Dense features -> crosses -> hidden layers -> an L2-normalised embedding.

    Call argument: encoded features by name. Result: `[batch, embedding_dim]` float32 of length 1
    (of length 0 where nothing is known, see `normalized`).
    """

    def __init__(
        self, features: DenseFeatures, config: TowerConfig, embedding_dim: int, seed: int, name: str
    ) -> None:
        """Stacks the layers; `seed` decides the initial weights and the dropout."""
        super().__init__(name=name)
        self._dense_features = features
        self._embedding_dim = embedding_dim
        self._input_dropout = ResumableDropout(config.input_dropout, seed_of(seed, "input_dropout"))
        self._crosses = [
            tfrs.layers.dcn.Cross(kernel_initializer=_glorot(seed, f"cross/{number}"))
            for number in range(config.cross_layers)
        ]
        self._hidden = [
            layer
            for number, units in enumerate(config.hidden_units)
            for layer in (
                keras.layers.Dense(
                    units,
                    config.activation,
                    kernel_initializer=_glorot(seed, f"hidden/{number}"),
                ),
                ResumableDropout(config.dropout, seed_of(seed, f"dropout/{number}")),
            )
        ]
        self._output = keras.layers.Dense(
            embedding_dim, use_bias=False, kernel_initializer=_glorot(seed, "output"), name="output"
        )

    @property
    def trimmed(self) -> list[str]:
        """Names of the inputs whose lists a batch reads up to its longest one."""
        return self._dense_features.trimmed

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """See the class."""
        return normalized(self.raw(encoded, training=training))

    def raw(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """The embedding before it is brought to length 1."""
        features = self._dense_features(encoded, training=training)
        hidden = features = self._input_dropout(features, training=training)
        for cross in self._crosses:
            hidden = cross(features, hidden)
        for layer in self._hidden:
            hidden = layer(hidden, training=training)
        # A single id of the right width is the embedding itself: matrix factorisation.
        if self._hidden or self._crosses or hidden.shape[-1] != self._embedding_dim:
            hidden = self._output(hidden)
        return hidden


def normalized(vectors: tf.Tensor) -> tf.Tensor:
    """Vectors brought to length 1, those shorter than `MIN_LENGTH` to their length / `MIN_LENGTH`.

    The gradient of x / |x| grows like 1 / |x|. A row that starts at zero and is a tower's whole
    output, such as the unknown id of a lone id feature, would get a first gradient a million times
    as large as the next (TensorFlow's own bound is 1e-6). Adam divides by the root of a mean of
    squares that remembers it for thousands of steps, and the row hardly moves. With Adam(0.003)
    its cosine to a noisy target after 100 steps is 0.48 with the bound 1e-6, 0.85 with 1e-3, and
    0.96 with 0.01, as if the row had started at random (0.97). Other rows of an embedding table
    start eight to sixteen times as long as 0.01 (8 to 32 dimensions) and are brought to length 1.

    Random values for such rows would learn as well, but a row that is never trained would then
    give unknown ids a direction out of nothing; zero scores 0 with every candidate.

    Args:
        vectors: `[..., embedding_dim]` floats.

    Returns:
        The same shape; finite, zero where the vector is zero.
    """
    return tf.math.l2_normalize(vectors, axis=-1, epsilon=MIN_LENGTH**2)


class QueryTower(Tower):
    """Query and context features -> query embedding."""

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds the tower that the config describes."""
        seed, towers = seed_of(config.training.seed, "query_tower"), config.towers
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
        seed, towers = seed_of(config.training.seed, "candidate_tower"), config.towers
        features = DenseFeatures(
            config.candidate_features, tables, statistics, seed=seed, name="candidate_features"
        )
        super().__init__(features, towers.candidate, towers.embedding_dim, seed, "candidate_tower")


def _glorot(seed: int, name: str) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed_of(seed, name))

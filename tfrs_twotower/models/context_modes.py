"""How the moment enters a score: query towers of the context modes."""

from collections.abc import Mapping

from tfrs_twotower.features.dense import DenseFeatures
from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.towers import QueryTower, Tables, Tower, normalized
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.prepared import NumberStatistics


def make_query_tower(
    config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
) -> keras.Model:
    """The query tower of the config's context mode.

    Args:
        config: Features, towers and mode.
        tables: See `embedding_tables`.
        statistics: Of the number features.
    """
    match config.context_mode:
        case "trilinear":
            return TrilinearQueryTower(config, tables, statistics)
        case "scoring_layer":
            return ScoredQueryTower(config, tables, statistics)
        case _:
            return QueryTower(config, tables, statistics)


class TrilinearQueryTower(keras.Model):
    """score = dot(user * context, candidate): an embedding in two halves.

    The halves are raw vectors; only their product is brought to length 1. Of a moment of which
    nothing is known, the context half is the same for all: at first ones, which change nothing.

    Call argument: encoded query and context features by name. Result: `[batch, embedding_dim]`
    float32 of length 1 (of length 0 where nothing is known).
    """

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds both halves."""
        super().__init__(name="query_tower")
        self._user = _user_half(config, tables, statistics)
        self._context = ContextHalf(config, tables, statistics)

    def user(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """The half that can be computed ahead, `[batch, embedding_dim]` float32."""
        return self._user.raw(encoded, training=training)

    def join(
        self, user: tf.Tensor, encoded: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tf.Tensor:
        """The query embedding of users in their moments.

        Args:
            user: `[batch, embedding_dim]` from `user`.
            encoded: Encoded context features by name.
            training: Whether dropout is active.

        Returns:
            `[batch, embedding_dim]` float32.
        """
        return normalized(user * self._context(encoded, training=training))

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """See the class."""
        return self.join(self.user(encoded, training), encoded, training)


class ScoredQueryTower(keras.Model):
    """The query's and the moment's vectors side by side, for a scoring layer.

    Call argument: encoded query and context features by name. Result: `[batch, 2 embedding_dim]`
    float32, both halves of length 1.
    """

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds both halves."""
        super().__init__(name="query_tower")
        self._user = _user_half(config, tables, statistics)
        self._context = ContextHalf(config, tables, statistics)

    def user(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """The half that can be computed ahead, `[batch, embedding_dim]` float32 of length 1."""
        return self._user(encoded, training=training)

    def join(
        self, user: tf.Tensor, encoded: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tf.Tensor:
        """What the scoring layer reads of users in their moments.

        Args:
            user: `[batch, embedding_dim]`, the result of `user`.
            encoded: Encoded context features by name.
            training: Whether dropout is active.

        Returns:
            `[batch, 2 embedding_dim]` float32.
        """
        context = self._context(encoded, training=training)
        return tf.concat([user, normalized(context)], axis=-1)

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """See the class."""
        return self.join(self.user(encoded, training), encoded, training)


class ContextHalf(Tower):
    """Context features -> `[batch, embedding_dim]`, ones where nothing has been learned."""

    def __init__(
        self, config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]
    ) -> None:
        """Builds the tower that the config describes."""
        seed = seed_of(config.training.seed, "context_tower")
        features = DenseFeatures(
            config.features.context, tables, statistics, seed=seed, name="context_features"
        )
        towers = config.towers
        super().__init__(features, towers.context, towers.embedding_dim, seed, "context_tower")
        self._bias = self.add_weight("bias", [towers.embedding_dim], initializer="ones")

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """See the class."""
        return self._bias + self.raw(encoded, training=training)


def _user_half(config: Config, tables: Tables, statistics: Mapping[str, NumberStatistics]) -> Tower:
    """The tower of what is known of the query before the moment."""
    seed, towers = seed_of(config.training.seed, "query_tower"), config.towers
    features = DenseFeatures(
        config.features.query, tables, statistics, seed=seed, name="query_features"
    )
    return Tower(features, towers.query, towers.embedding_dim, seed, "user_tower")

"""The two halves of a query embedding, served apart: the user's, and that of the context.

What is known of a user before the request changes slowly: its vector can be computed ahead, kept,
and joined with the context when a request comes. Two context modes keep the halves apart until
then: `trilinear`, whose query embedding is the product of both, and `scoring_layer`, which reads
them side by side. With `user_tower` the context features pass through the same layers as the
user's, so there is no vector that could be kept.
"""

from collections.abc import Mapping

from tfrs_twotower.features.encoding import Encoder, raw_spec
from tfrs_twotower.features.raw_inputs import missing_input
from tfrs_twotower.keras import tf
from tfrs_twotower.models.context_modes import ScoredQueryTower, TrilinearQueryTower
from tfrs_twotower.publishing.models_folder import QUERY_EMBEDDING
from tfrs_twotower.retrieval.retriever import Signature, finite_or_zero
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature

USER, JOIN = "user", "join"
USER_EMBEDDING = "user_embedding"

Tensors = Mapping[str, tf.Tensor]


class JoinedTower(tf.Module):
    """A user embedding computed ahead and the raw context features -> query embedding."""

    def __init__(
        self, encoder: Encoder, tower: TrilinearQueryTower | ScoredQueryTower, config: Config
    ) -> None:
        """Takes a tower apart.

        Args:
            encoder: Of the query and context features.
            tower: Called for inference.
            config: Decides which features are of which half.
        """
        super().__init__()
        self._encoder = encoder
        # The tower itself stays untracked: Keras would save its training functions as well.
        self._user = lambda encoded: tower.user(encoded, training=False)
        self._join = lambda user, encoded: tower.join(user, encoded, training=False)
        self._tower_variables = list(tower.variables)
        self._query, self._context = config.features.query, config.features.context
        self._embedding_dim = config.towers.embedding_dim

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The user embedding and the raw context features by name."""
        user = tf.TensorSpec([None, self._embedding_dim], tf.float32, USER_EMBEDDING)
        return {USER_EMBEDDING: user, **_specs(self._context)}

    def __call__(self, raw: Tensors) -> tf.Tensor:
        """The query embedding, float32, finite; see `retrieval.ServedTower`."""
        user = raw[USER_EMBEDDING]
        encoded = self._encoder({**_missing(self._query, tf.shape(user)[0]), **raw})
        return finite_or_zero(self._join(user, encoded))

    def user(self, raw: Tensors) -> tf.Tensor:
        """Raw query features -> `[batch, embedding_dim]` float32, finite.

        Of any length with `trilinear`, of length 1 with `scoring_layer`.
        """
        batch_size = tf.shape(raw[next(iter(self._query))])[0]
        return finite_or_zero(
            self._user(self._encoder({**_missing(self._context, batch_size), **raw}))
        )

    def signatures(self) -> dict[str, Signature]:
        """`user` and `join`: one after the other they give what `serving_default` gives."""
        return {
            USER: Signature(lambda raw: {USER_EMBEDDING: self.user(raw)}, _specs(self._query)),
            JOIN: Signature(lambda raw: {QUERY_EMBEDDING: self(raw)}, self.inputs),
        }


def _specs(features: Mapping[str, Feature]) -> dict[str, tf.TensorSpec]:
    return {name: raw_spec(feature, name) for name, feature in features.items()}


def _missing(features: Mapping[str, Feature], batch_size: tf.Tensor) -> dict[str, tf.Tensor]:
    return {name: missing_input(one, name, batch_size) for name, one in features.items()}

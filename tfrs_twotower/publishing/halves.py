"""The two halves of a trilinear query embedding, served apart.

What is known of a query before the moment changes slowly: its vector can be computed ahead, kept,
and joined with the moment when a request comes. That is right for `context_mode: trilinear` alone,
whose score is a product of both; in the other modes the moment goes through layers together with
the rest.
"""

from collections.abc import Mapping

from tfrs_twotower.features.encoding import Encoder, raw_spec
from tfrs_twotower.features.raw_inputs import missing_input
from tfrs_twotower.keras import tf
from tfrs_twotower.models.context_modes import TrilinearQueryTower
from tfrs_twotower.publishing.models_folder import QUERY_EMBEDDING
from tfrs_twotower.retrieval.retriever import Signature
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature

USER, JOIN = "user", "join"
USER_EMBEDDING = "user_embedding"

Tensors = Mapping[str, tf.Tensor]


class JoinedTower(tf.Module):
    """A user embedding computed ahead and the raw context features -> query embedding."""

    def __init__(self, encoder: Encoder, tower: TrilinearQueryTower, config: Config) -> None:
        """Joins the parts.

        Args:
            encoder: Of the query and context features.
            tower: Called for inference.
            config: Says which features are of which half.
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
        """`[batch, embedding_dim]` float32, finite; see `retrieval.ServedTower`."""
        user = raw[USER_EMBEDDING]
        encoded = self._encoder({**_missing(self._query, tf.shape(user)[0]), **raw})
        return _finite(self._join(user, encoded))

    def user(self, raw: Tensors) -> tf.Tensor:
        """Raw query features -> `[batch, embedding_dim]` float32, finite, of any length."""
        batch_size = tf.shape(raw[next(iter(self._query))])[0]
        return _finite(self._user(self._encoder({**_missing(self._context, batch_size), **raw})))

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


def _finite(embeddings: tf.Tensor) -> tf.Tensor:
    is_finite = tf.reduce_all(tf.math.is_finite(embeddings), axis=1, keepdims=True)
    return tf.where(is_finite, embeddings, tf.zeros_like(embeddings))

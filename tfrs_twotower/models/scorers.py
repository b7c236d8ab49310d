"""Scores of queries and candidates by their embeddings: dot products, or a trained layer."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.losses import dot_products

# Elements of the largest tensor of a ranking by the scoring layer: 64 MB of float32.
CHUNK_ELEMENTS = 16_000_000

Floats = npt.NDArray[np.float32]


class Scorer(Protocol):
    """Scores of pairs, in training, and of everything with everything, in rankings."""

    def __call__(self, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """`[batch, query_dim]` and each one's own `[batch, n, embedding_dim]` -> `[batch, n]`."""

    def matrix(self, queries: Floats, candidates: Floats) -> Floats:
        """`[num_queries, query_dim]`, `[corpus_size, embedding_dim]` -> all scores of both."""


class DotProduct:
    """The score of two towers: of embeddings of length 1 the cosine."""

    def __call__(self, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """See `Scorer`."""
        return dot_products(queries, candidates)

    def matrix(self, queries: Floats, candidates: Floats) -> Floats:
        """See `Scorer`."""
        # `numpy()` and not `np.asarray`, which gives a view that cannot be written to.
        return tf.matmul(queries, candidates, transpose_b=True).numpy()


DOT_PRODUCT = DotProduct()


class ScoringLayer(keras.layers.Layer):
    """A `Scorer`: linear([query, candidate, context]), or a network with hidden layers.

    The first layer is a sum over both sides, so each side's share is computed once. Without
    hidden layers the score is that sum: it ranks the candidates alike for every query.
    """

    def __init__(self, hidden_units: Sequence[int], *, seed: int) -> None:
        """Stacks the layers.

        Args:
            hidden_units: Of the layers before the last, which gives the score.
            seed: Of the initial weights.
        """
        super().__init__(name="scoring_layer")
        first, *others = (*hidden_units, 1)
        self.width = first

        def dense(units: int, name: str, *, use_bias: bool = True) -> keras.layers.Dense:
            initializer = keras.initializers.GlorotUniform(seed_of(seed, name))
            return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=initializer)

        self._of_query = dense(first, "query")
        self._of_candidate = dense(first, "candidate", use_bias=False)
        self._others = [dense(units, f"hidden/{number}") for number, units in enumerate(others)]

    def query_share(self, queries: tf.Tensor) -> tf.Tensor:
        """`[..., 2 embedding_dim]` -> `[..., width]`."""
        return self._of_query(queries)

    def candidate_share(self, candidates: tf.Tensor) -> tf.Tensor:
        """`[..., embedding_dim]` -> `[..., width]`."""
        return self._of_candidate(candidates)

    def from_shares(self, shares: tf.Tensor) -> tf.Tensor:
        """`[..., width]` sums of a query's and a candidate's share -> `[...]` scores."""
        hidden = shares
        for layer in self._others:
            hidden = layer(tf.nn.relu(hidden))
        return tf.squeeze(hidden, axis=-1)

    def call(self, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Scores each query's own candidates.

        Args:
            queries: `[batch, 2 embedding_dim]` of a `ScoredQueryTower`.
            candidates: `[batch, n, embedding_dim]`.

        Returns:
            `[batch, n]` float32.
        """
        shares = self.query_share(queries)[:, tf.newaxis] + self.candidate_share(candidates)
        return self.from_shares(shares)

    def matrix(self, queries: Floats, candidates: Floats) -> Floats:
        """Scores every candidate for every query, in chunks.

        Args:
            queries: `[num_queries, 2 embedding_dim]`.
            candidates: `[corpus_size, embedding_dim]`.

        Returns:
            `[num_queries, corpus_size]` float32.
        """
        shares = self.candidate_share(tf.constant(candidates))
        chunk = max(CHUNK_ELEMENTS // (len(candidates) * self.width), 1)
        return np.concatenate(
            [
                self.from_shares(
                    self.query_share(tf.constant(queries[start : start + chunk]))[:, tf.newaxis]
                    + shares
                ).numpy()
                for start in range(0, len(queries), chunk)
            ]
        )

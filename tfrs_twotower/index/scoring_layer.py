"""Exact search by a scoring layer, for scores that are not dot products."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.control_flow import in_chunks
from tfrs_twotower.index.exact import ExactIndex
from tfrs_twotower.models.scorers import CHUNK_ELEMENTS, DOT_PRODUCT, Scorer, ScoringLayer


def exact_index(embeddings: npt.NDArray[np.float32], scorer: Scorer = DOT_PRODUCT) -> ExactIndex:
    """Exact search by what a model scores with.

    Args:
        embeddings: See `CandidateIndex`.
        scorer: Of the model.
    """
    if isinstance(scorer, ScoringLayer):
        return ScoredIndex(embeddings, scorer)
    return ExactIndex(embeddings)


class ScoredIndex(ExactIndex):
    """Scores every candidate by the layer: stock TensorFlow ops only.

    Queries are the vectors of a `ScoredQueryTower`.
    """

    def __init__(self, embeddings: npt.NDArray[np.float32], scorer: ScoringLayer) -> None:
        """Computes the candidates' share of the scores ahead.

        Args:
            embeddings: See `CandidateIndex`.
            scorer: The trained layer.
        """
        super().__init__(embeddings)
        shares = scorer.candidate_share(tf.constant(embeddings))
        self._shares = tf.Variable(shares, trainable=False, name="candidate_shares")
        # The layer itself stays untracked: Keras would save its training functions as well.
        self._query_share, self._from_shares = scorer.query_share, scorer.from_shares
        self._scorer_variables = list(scorer.variables)
        self._width = scorer.width

    @property
    def description(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        return {"kind": "exact", "score": "scoring_layer"}

    @property
    def vectors_at_once(self) -> int:
        """How many embeddings or shares a search copies at a time, at most."""
        return CHUNK_ELEMENTS // max(self.embedding_dim, self._width)

    def _score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        shares = tf.gather(tf.convert_to_tensor(self._shares), rows)
        return self._from_shares(shares + self._query_share(queries)[:, tf.newaxis])

    def _find_exactly(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        def best(chunk: tf.Tensor) -> tf.Tensor:
            shares = self._query_share(chunk)[:, tf.newaxis] + self._shares
            return tf.math.top_k(self._from_shares(shares), k).indices

        return in_chunks(
            best,
            (queries,),
            tf.constant(CHUNK_ELEMENTS // (self.num_candidates * self._width)),
            tf.TensorSpec([None, None], tf.int32),
        )

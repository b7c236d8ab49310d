"""Candidates that an index of an earlier corpus lacks: scored for every query."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# In place of a row: nothing, or a candidate that is no longer there.
NO_ROW = -1


class OutsideRows(tf.Module):
    """The candidates that are not among the rows of an index, with their embeddings."""

    def __init__(self, embeddings: npt.NDArray[np.float32], inside: npt.NDArray[np.int32]) -> None:
        """Finds them.

        Args:
            embeddings: `[num_candidates, embedding_dim]` of the whole corpus.
            inside: Candidate rows of the index, of any shape; -1 is none.
        """
        super().__init__()
        is_outside = np.ones(len(embeddings), bool)
        is_outside[inside[inside != NO_ROW]] = False
        rows = np.flatnonzero(is_outside).astype(np.int32)
        self.num_rows = len(rows)
        self._rows = tf.Variable(rows, trainable=False, name="outside_rows")
        self._vectors = tf.Variable(embeddings[rows], trainable=False, name="outside_vectors")

    @property
    def description(self) -> dict[str, Any]:
        """How many there are, as the manifest holds it; nothing where there is none."""
        return {"num_outside": self.num_rows} if self.num_rows else {}

    def best_of_both(
        self, queries: tf.Tensor, rows: tf.Tensor, scores: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of what an index found and of the candidates outside it.

        Args:
            queries: `[batch, embedding_dim]` float32.
            rows: `[batch, n]` int32 candidate rows, distinct but for -1, which stands for none.
            scores: `[batch, n]` float32, of these.
            k: int32 scalar.

        Returns:
            Candidate rows `[batch, at most k]` int32 in any order, and for which queries there are
            fewer than `k`, `[batch]` bool; their rows hold -1.
        """
        scores = tf.where(rows == NO_ROW, scores.dtype.min, scores)
        if self.num_rows:
            others = tf.matmul(queries, self._vectors, transpose_b=True)
            scores = tf.concat([scores, others], axis=1)
            everywhere = tf.convert_to_tensor(self._rows)[tf.newaxis]
            rows = tf.concat([rows, tf.repeat(everywhere, tf.shape(rows)[0], axis=0)], axis=1)
        num_found = tf.shape(scores)[1]
        places = tf.math.top_k(scores, tf.minimum(k, num_found), sorted=False).indices
        best = tf.gather(rows, places, batch_dims=1)
        return best, tf.reduce_any(best == NO_ROW, axis=1) | (num_found < k)

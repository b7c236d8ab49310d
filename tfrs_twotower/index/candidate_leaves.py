"""Which candidates lie in the leaves near a query."""

from typing import Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.outside import NO_ROW


class CandidateLeaves(tf.Module):
    """The candidates of an index in the order of its leaves; those in no leaf come first."""

    def __init__(
        self, embeddings: npt.NDArray[np.float32], leaf_of: npt.NDArray[np.int32], num_leaves: int
    ) -> None:
        """Keeps what a graph needs as variables.

        Args:
            embeddings: `[num_candidates, embedding_dim]`.
            leaf_of: `[num_candidates]` 0 to `num_leaves` - 1; -1: in no leaf.
            num_leaves: How many leaves there are.

        Attributes:
            num_leaves: How many leaves there are.
            place_of: `[num_candidates]` int32, where in that order each candidate is.
        """
        super().__init__()
        self.num_leaves = num_leaves
        order = np.argsort(leaf_of, kind="stable")
        self.place_of = np.empty(len(order), np.int32)
        self.place_of[order] = np.arange(len(order))
        starts = np.searchsorted(leaf_of[order], np.arange(num_leaves + 1))
        self._num_outside = int(starts[0])
        centres = np.zeros([num_leaves, embeddings.shape[1]], np.float32)
        held = np.flatnonzero(starts[1:] > starts[:-1])
        if len(held):
            centres[held] = np.add.reduceat(embeddings[order], starts[held], axis=0)
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
        self._starts = tf.Variable(starts.astype(np.int32), trainable=False, name="leaf_starts")
        self._centres = tf.Variable(centres, trainable=False, name="leaf_centres")

    @classmethod
    def of_rows(cls, embeddings: npt.NDArray[np.float32], rows: npt.NDArray[np.int32]) -> Self:
        """The leaves of candidates that are known by leaf.

        Args:
            embeddings: `[num_candidates, embedding_dim]`.
            rows: `[num_leaves, leaf_size]` candidate rows, distinct but for -1, which is none.
        """
        leaf_of = np.full(len(embeddings), NO_ROW, np.int32)
        leaves, slots = np.nonzero(rows != NO_ROW)
        leaf_of[rows[leaves, slots]] = leaves
        return cls(embeddings, leaf_of, len(rows))

    def near(self, queries: tf.Tensor, num_leaves: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where in the order the candidates of the leaves nearest to each query are.

        Args:
            queries: `[batch, embedding_dim]` float32.
            num_leaves: `[batch]` int32, of how many leaves; no more than there are.

        Returns:
            `[batch, n]` int32 where pieces begin and end, those in no leaf among them; a piece may
            be empty.
        """
        most = tf.reduce_max(num_leaves)
        scores = tf.matmul(queries, self._centres, transpose_b=True)
        nearest = tf.math.top_k(scores, most).indices
        starts = tf.convert_to_tensor(self._starts)
        first, last = tf.gather(starts, nearest), tf.gather(starts, nearest + 1)
        last = tf.where(tf.range(most) < num_leaves[:, tf.newaxis], last, first)
        if self._num_outside:
            outside = tf.fill([tf.shape(queries)[0], 1], self._num_outside)
            first = tf.concat([tf.zeros_like(outside), first], axis=1)
            last = tf.concat([outside, last], axis=1)
        return first, last

"""Lists of candidates that an attribute keeps: by value, or in the order of a number."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.control_flow import rarely

# Fills up lists; above every row.
NO_MORE = np.iinfo(np.int32).max


class Listed(NamedTuple):
    """Which candidates one attribute leaves to each query of a batch."""

    order: tf.Tensor  # [num_listed] int32 candidate rows.
    # [batch, n] int32: where in it the candidates of a query begin and end, in n pieces.
    first: tf.Tensor
    last: tf.Tensor
    size: tf.Tensor  # [batch] int32: how many these are.
    share: tf.Tensor  # [batch] float32: about which share of the corpus, at most 1.

    def rows(self, is_wanted: tf.Tensor) -> tf.Tensor:
        """The candidates themselves.

        Args:
            is_wanted: `[batch]` bool; False: none of this query's.

        Returns:
            `[batch, width]` int64 candidate rows, filled up with `NO_MORE`; width is the size of
            the longest list that is wanted.
        """
        last = tf.where(is_wanted[:, tf.newaxis], self.last, self.first)
        places = tf.raw_ops.RaggedRange(
            starts=tf.reshape(self.first, [-1]), limits=tf.reshape(last, [-1]), deltas=1
        ).rt_dense_values
        sizes = tf.where(is_wanted, self.size, 0)
        ends = tf.pad(tf.cumsum(tf.cast(sizes, tf.int64)), [[1, 0]])
        rows = tf.raw_ops.RaggedTensorToTensor(
            shape=tf.constant([-1, -1], tf.int64),
            values=tf.gather(self.order, places),
            default_value=NO_MORE,
            row_partition_tensors=[ends],
            row_partition_types=["ROW_SPLITS"],
        )
        return tf.cast(tf.ensure_shape(rows, [None, None]), tf.int64)


class CandidateLists(tf.Module):
    """Candidates in an order in which those that a request asks for lie together."""

    def __init__(self, rows: npt.NDArray[np.integer], name: str, corpus_size: int) -> None:
        """Keeps them as a variable.

        Args:
            rows: `[num_listed]` candidate rows; one may be there several times.
            name: Of the attribute.
            corpus_size: How many candidates there are.
        """
        super().__init__()
        self.attribute = name
        self._rows = tf.Variable(rows.astype(np.int32), trainable=False, name=f"by_{name}")
        self._corpus_size = corpus_size

    @property
    def rows(self) -> npt.NDArray[np.int32]:
        """`[num_listed]` candidate rows."""
        return np.asarray(self._rows.numpy())

    def listed(self, first: tf.Tensor, last: tf.Tensor) -> Listed:
        """What lies between places of the order, `[batch, n]` int32."""
        size = tf.reduce_sum(last - first, axis=1)
        share = tf.minimum(tf.cast(size, tf.float32) / self._corpus_size, 1.0)
        return Listed(tf.convert_to_tensor(self._rows), first, last, size, share)


class NearLists(tf.Module):
    """The candidates of each value of an attribute, in the order of the leaves of an index."""

    def __init__(
        self, lists: CandidateLists, values: npt.NDArray[np.int64], leaves: CandidateLeaves
    ) -> None:
        """Keeps them as variables.

        Args:
            lists: Of the attribute.
            values: `[num_listed]` the value to which each entry of the lists belongs.
            leaves: Of the same candidates.
        """
        super().__init__()
        rows = lists.rows
        keys = values * len(leaves.place_of) + leaves.place_of[rows]
        order = np.argsort(keys)
        self._corpus_size = len(leaves.place_of)
        self._keys = tf.Variable(keys[order], trainable=False, name="keys")
        self._near = CandidateLists(rows[order], lists.attribute, self._corpus_size)

    def listed(self, value_rows: tf.Tensor, first: tf.Tensor, last: tf.Tensor) -> Listed:
        """The candidates that have one of the values, those with several as often.

        Args:
            value_rows: `[batch, n]` int64.
            first: `[batch, m]` int32, where in the order of the leaves pieces begin.
            last: Where they end.
        """
        keys = tf.expand_dims(self._keys, axis=0)
        # Those of `NO_ROW` are below every key.
        base = (value_rows * self._corpus_size)[:, :, tf.newaxis]

        def places(edges: tf.Tensor) -> tf.Tensor:
            wanted = base + tf.cast(edges, tf.int64)[:, tf.newaxis]
            found = tf.raw_ops.LowerBound(sorted_inputs=keys, values=tf.reshape(wanted, [1, -1]))
            num_queries, width = tf.shape(wanted)[0], tf.reduce_prod(tf.shape(wanted)[1:])
            return tf.reshape(found, tf.stack([num_queries, width]))

        return self._near.listed(places(first), places(last))


def distinct(rows: tf.Tensor) -> tf.Tensor:
    """Lists of candidates in ascending order, each candidate once.

    Args:
        rows: `[batch, n]` int64; `NO_MORE` is none.

    Returns:
        `[batch, n]`: repetitions are `NO_MORE`, which may stand between candidates.
    """

    def in_order() -> tf.Tensor:
        ascending = tf.sort(rows, axis=1)
        is_new = tf.pad(
            ascending[:, 1:] != ascending[:, :-1], [[0, 0], [1, 0]], constant_values=True
        )
        # Of `[batch, 0]` the padding makes one column.
        is_new = is_new[:, : tf.shape(rows)[1]]
        return tf.where(is_new, ascending, tf.constant(NO_MORE, tf.int64))

    # To sort takes longer than to score.
    is_sorted = (rows[:, 1:] > rows[:, :-1]) | (rows[:, 1:] == NO_MORE)
    return tf.cond(tf.reduce_all(is_sorted), lambda: rows, rarely(in_order))

"""The hardest negatives of a batch: those that score highest for the query."""

from typing import NamedTuple

import tensorflow as tf

from tfrs_twotower.losses.masks import Masks
from tfrs_twotower.losses.softmax import BLOCK_ROWS


class Hardest(NamedTuple):
    """The n highest logits of each query, best first."""

    positions: tf.Tensor  # [num_queries, n] int32 position in the batch
    is_negative: tf.Tensor  # [num_queries, n] bool; false where fewer than n are not masked


def hardest_in_batch(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    n: int,
    masks: Masks,
    correction: tf.Tensor | None = None,
) -> Hardest:
    """Finds the n candidates of the batch with the highest `q . c - correction`, not masked.

    The score matrix is walked in blocks and never held whole. No gradient flows: the scores of the
    few that are found are cheap to compute again.

    Args:
        queries: `[num_queries, embedding_dim]`.
        candidates: `[num_candidates, embedding_dim]`.
        n: How many; of a batch with fewer candidates all are taken.
        masks: Which candidates are not negatives.
        correction: `[num_candidates]` taken off the scores. None: nothing.
    """
    num_queries = tf.shape(queries)[0]
    num_blocks = (num_queries + BLOCK_ROWS - 1) // BLOCK_ROWS
    in_columns = masks.to_columns(candidates)
    # A batch may be smaller than the config's: of few examples, or of the windows of an epoch.
    n = tf.minimum(n, tf.shape(candidates)[0])

    def block_of(block: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        start = block * BLOCK_ROWS
        end = tf.minimum(start + BLOCK_ROWS, num_queries)
        logits = tf.matmul(queries[start:end], in_columns, transpose_b=True)
        if correction is not None:
            logits -= masks.to_columns(correction)
        logits = masks.applied(logits, start)
        values, columns = tf.math.top_k(logits, n)
        return columns, values > logits.dtype.min / 4

    columns = tf.TensorArray(tf.int32, num_blocks, infer_shape=False, element_shape=[None, None])
    is_negative = tf.TensorArray(tf.bool, num_blocks, infer_shape=False, element_shape=[None, None])

    def step(
        block: tf.Tensor, columns: tf.TensorArray, is_negative: tf.TensorArray
    ) -> tuple[tf.Tensor | tf.TensorArray, ...]:
        found, is_there = block_of(block)
        return block + 1, columns.write(block, found), is_negative.write(block, is_there)

    _, columns, is_negative = tf.while_loop(
        lambda block, *_: block < num_blocks,
        step,
        (tf.constant(0), columns, is_negative),
        parallel_iterations=1,
    )
    found = columns.concat()
    positions = found if masks.order is None else tf.gather(masks.order, found)
    return Hardest(
        tf.stop_gradient(tf.ensure_shape(positions, [queries.shape[0], None])),
        tf.ensure_shape(is_negative.concat(), [queries.shape[0], None]),
    )

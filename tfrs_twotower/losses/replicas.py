"""One batch that replicas hold in shares: what each needs of the others, with right gradients.

Outside `tf.distribute`, and with one replica, everything is as it was.
"""

from typing import NamedTuple

from tfrs_twotower.keras import tf


class Gathered(NamedTuple):
    """The values of all replicas, one replica after another."""

    values: tf.Tensor  # [sum of sizes, ...]
    first: tf.Tensor | int  # position of this replica's first value


def gather(values: tf.Tensor) -> Gathered:
    """Gathers along the first dimension; gradients flow back from all replicas.

    Args:
        values: `[size, ...]`, of a size that may differ between replicas.
    """
    context = _context()
    if context is None:
        return Gathered(values, 0)
    sizes = context.all_gather(tf.shape(values)[:1], axis=0)
    first = tf.reduce_sum(sizes[: context.replica_id_in_sync_group])
    return Gathered(_with_dense_gradient(context.all_gather(values, axis=0)), first)


def total(value: tf.Tensor) -> tf.Tensor:
    """The sum over replicas; no gradient flows."""
    context = _context()
    value = tf.stop_gradient(value)
    return value if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def whole_loss(share: tf.Tensor) -> tf.Tensor:
    """The sum of the replicas' shares of a loss, with the gradient of this replica's share.

    Optimizers sum the gradients of replicas: the sum is the gradient of the whole.
    """
    return share + tf.stop_gradient(total(share) - share)


@tf.custom_gradient
def _with_dense_gradient(values: tf.Tensor) -> tuple[tf.Tensor, object]:
    """The values; `all_gather` cannot send back the sparse gradient of a lookup in them."""
    return tf.identity(values), tf.convert_to_tensor


def _context() -> "tf.distribute.ReplicaContext | None":
    context = tf.distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context

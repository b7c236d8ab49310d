"""Checks of the inputs of a batch, which have one row for all queries or one a query."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_twotower.index.control_flow import rarely

# A list of one row stands for every query: without a bound on what that makes, a request of two
# hundred bytes takes all memory.
MAX_CELLS = 2**22


class Legal(NamedTuple):
    """What must hold of the values of an input."""

    name: str
    holds: tf.Tensor  # [rows] bool
    expected: str  # As a message says it.


def checked(
    inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor, legal: Iterable[Legal] = ()
) -> tf.Tensor:
    """The number of queries, once their inputs have been checked.

    Args:
        inputs: Lists `[rows, n]`, at least one, then numbers `[rows]`.
        num_queries: int32 scalar.
        legal: What must hold of their values.

    Raises:
        tf.errors.InvalidArgumentError: When run, if an input has neither one row nor one a query, a
            list makes more than `MAX_CELLS` cells, or a value is not legal.
    """
    legal = list(legal)
    num_rows = count_rows(inputs)
    lists = [values for values in inputs.values() if values.shape.rank == 2]
    widths = tf.stack([tf.shape(values) for values in lists])[:, 1]
    is_small = tf.cast(widths, tf.int64) * tf.cast(num_queries, tf.int64) <= MAX_CELLS
    is_legal = [one.holds for one in legal]
    holds = tf.concat([fit_batch(num_rows, num_queries), is_small, *is_legal], axis=0)

    def refused() -> tf.Tensor:
        checks = [
            assert_all(one.holds, [f"`{one.name}` must be {one.expected}, got", inputs[one.name]])
            for one in legal
        ]
        for (name, values), rows in zip(inputs.items(), tf.unstack(num_rows), strict=True):
            message = [f"`{name}` must have one row or one a query, got", rows, "for", num_queries]
            checks.append(assert_all(fit_batch(rows, num_queries), message))
            if values.shape.rank == 2:
                shape = tf.stack([num_queries, tf.shape(values)[1]])
                num_cells = tf.reduce_prod(tf.cast(shape, tf.int64))
                message = [f"`{name}` makes more than {MAX_CELLS} cells: ask fewer queries at once"]
                checks.append(assert_all(num_cells <= MAX_CELLS, [message[0] + ", got", shape]))
        with tf.control_dependencies(checks):
            return tf.identity(num_queries)

    # Their messages would take as long as the search.
    return tf.cond(tf.reduce_all(holds), lambda: num_queries, rarely(refused))


def count_rows(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """How many rows each input has, `[num_inputs]` int32; lists come before numbers."""
    shapes = [tf.shape(values) for values in inputs.values()]
    lists = [shape for shape in shapes if shape.shape[0] == 2]
    return tf.concat([tf.stack(lists)[:, 0], *shapes[len(lists) :]], axis=0)


def fit_batch(num_rows: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Which inputs have one row for all queries or one a query, of the shape of `num_rows`."""
    return (num_rows == 1) | (num_rows == num_queries)


def for_each_query(name: str, values: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Repeats a list that came as one row for all queries of the batch.

    Args:
        name: For messages.
        values: `[1, n]` or `[num_queries, n]`.
        num_queries: int32 scalar.

    Raises:
        tf.errors.InvalidArgumentError: See `checked`.
    """
    num_queries = checked({name: values}, num_queries)
    return tf.broadcast_to(values, tf.stack([num_queries, tf.shape(values)[1]]))


def assert_all(conditions: tf.Tensor, message: list[Any]) -> tf.Operation:
    """Fails with a message unless all conditions hold; one node, unlike `tf.debugging.Assert`."""
    data = [tf.convert_to_tensor(part) for part in message]
    return tf.raw_ops.Assert(condition=tf.reduce_all(conditions), data=data)

"""Control flow of a served graph: large inputs in chunks, branches that are rarely taken."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def in_chunks(
    function: Callable[..., Any], inputs: tuple[tf.Tensor, ...], chunk: tf.Tensor, output: Any
) -> Any:
    """Applies a function to `chunk` rows of its inputs at a time, so that memory stays bounded.

    Args:
        function: Matrices with a common number of rows, 1 or more -> a nest of such matrices.
        inputs: What to apply it to; may have no rows.
        chunk: int32 scalar, how many rows at once; at least one is taken.
        output: What `function` returns, as `tf.TensorSpec`s.

    Returns:
        What `function` returns for all rows.
    """
    num_rows = tf.shape(inputs[0])[0]
    chunk = tf.clip_by_value(chunk, 1, tf.maximum(num_rows, 1))

    def chunk_by_chunk() -> Any:
        num_chunks = tf.maximum(-(-num_rows // chunk), 1)

        def split(matrix: tf.Tensor) -> tf.Tensor:
            padded = tf.pad(matrix, [[0, num_chunks * chunk - num_rows], [0, 0]])
            width = matrix.shape[1] or tf.shape(matrix)[1]
            return tf.reshape(padded, [num_chunks, chunk, width])

        results = tf.map_fn(
            lambda matrices: function(*matrices),
            tuple(split(matrix) for matrix in inputs),
            # In parallel, the chunks would take the memory that they are to save.
            parallel_iterations=1,
            fn_output_signature=output,
        )
        return tf.nest.map_structure(
            lambda x: tf.reshape(x, [num_chunks * chunk, tf.shape(x)[2]])[:num_rows], results
        )

    return tf.cond(num_rows == chunk, lambda: function(*inputs), rarely(chunk_by_chunk))


def rarely(branch: Callable[[], Any]) -> Callable[[], Any]:
    """A branch of `tf.cond` that is one node of the graph until it is taken.

    The runtime visits every node of a branch that is not taken, to mark it as dead; with many rules
    that no request uses, this would take most of a request's time. A function that is not inlined
    is one node. `_noinline` is an attribute that TensorFlow does not document: no other module
    relies on it.
    """
    return tf.function(branch, autograph=False, experimental_attributes={"_noinline": True})

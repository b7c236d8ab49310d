"""Chunks change nothing, and a branch that is rarely taken is one node."""

import numpy as np
import pytest

from tfrs_twotower.index.control_flow import in_chunks, rarely
from tfrs_twotower.keras import tf


@pytest.mark.parametrize("chunk", [0, 1, 3, 7, 100])
def test_all_rows_come_back_in_order(chunk):
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)

    doubled = in_chunks(
        lambda matrix: 2 * matrix,
        (tf.constant(rows),),
        tf.constant(chunk),
        tf.TensorSpec([None, None], tf.float32),
    )

    np.testing.assert_array_equal(doubled, 2 * rows)


def test_no_rows_are_a_chunk_as_well():
    nothing = in_chunks(
        lambda matrix: 2 * matrix,
        (tf.zeros([0, 2]),),
        tf.constant(3),
        tf.TensorSpec([None, None], tf.float32),
    )

    assert nothing.shape == (0, 2)


def test_a_rare_branch_stays_a_function_that_is_not_inlined():
    """A version without the attribute would inline it, and every request would pay for it."""

    @tf.function(input_signature=[tf.TensorSpec([])])
    def positive_part(x: tf.Tensor) -> tf.Tensor:
        return tf.cond(x < 0, rarely(lambda: tf.zeros([])), lambda: x)

    library = positive_part.get_concrete_function().graph.as_graph_def().library

    kept = [f for f in library.function if f.attr["_noinline"].b]
    assert len(kept) == 1, "TensorFlow no longer keeps `_noinline` of `experimental_attributes`"
    assert positive_part(-3.0) == 0.0
    assert positive_part(3.0) == 3.0

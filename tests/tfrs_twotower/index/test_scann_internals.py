"""What is relied on of ScaNN without being documented; a failure names what a version moved."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from scann.scann_ops.py.scann_builder import ScannBuilder

from tfrs_twotower.index import IndexParameters, _scann_internals
from tfrs_twotower.schema.scann_ops import register_scann_ops

EMBEDDINGS = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
STATE = {
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
}


@pytest.mark.parametrize(
    ("op", "inputs"),
    [
        (
            "scann_scann_create_searcher",
            {"x", "scann_config", "training_threads", "shared_name"},
        ),
        ("scann_scann_to_tensors", {"scann_handle"}),
        ("scann_tensors_to_scann", {"x", "shared_name", *STATE}),
        (
            "scann_scann_search_batched",
            {
                "scann_handle",
                "queries",
                "final_num_neighbors",
                "pre_reordering_num_neighbors",
                "leaves_to_search",
                "parallel",
            },
        ),
    ],
)
def test_scann_has_the_op_with_these_inputs(op, inputs):
    function = getattr(register_scann_ops(), op, None)

    assert function is not None, f"ScaNN has no op {op} any more"
    moved = inputs - inspect.signature(function).parameters.keys()
    assert not moved, f"{op} has no inputs {moved} any more"


@pytest.mark.parametrize(
    ("step", "arguments"),
    [
        ("tree", ["num_leaves", "num_leaves_to_search"]),
        ("score_ah", ["dimensions_per_block", "anisotropic_quantization_threshold"]),
        ("reorder", ["reordering_num_neighbors"]),
    ],
)
def test_the_builder_takes_these_arguments_in_this_order(step, arguments):
    made_by = getattr(ScannBuilder, step).proto_maker

    assert [*inspect.signature(made_by).parameters][1 : 1 + len(arguments)] == arguments


def test_the_tree_takes_what_makes_it_the_same_every_time():
    made_by = ScannBuilder.tree.proto_maker

    assert {"random_init", "spherical", "min_partition_size"} <= (
        inspect.signature(made_by).parameters.keys()
    )


@pytest.mark.parametrize(
    "parameters", [None, IndexParameters(num_leaves=9, leaves_to_search=3)], ids=["brute", "tree"]
)
def test_a_searcher_comes_apart_into_these_tensors(parameters):
    embeddings = tf.Variable(EMBEDDINGS)
    config = _scann_internals.searcher_config(embeddings, parameters)

    state = _scann_internals.build(embeddings, config, "test-build")

    assert state.keys() == STATE


def test_a_short_answer_is_padded_with_nan():
    """Two clusters, one of 20 candidates: a leaf of them cannot give 30."""
    centres = np.eye(8, dtype=np.float32)[[0, 1]]
    embeddings = tf.Variable(np.repeat(centres, [20, 980], axis=0) + 0.01 * EMBEDDINGS[0])
    parameters = IndexParameters(num_leaves=2, leaves_to_search=1)
    config = _scann_internals.searcher_config(embeddings, parameters)
    state = _scann_internals.build(embeddings, config, "short-build")

    rows, distances = _scann_internals.search(
        embeddings,
        state,
        tf.constant(centres),
        k=tf.constant(30),
        reorder=tf.constant(30),
        leaves_to_search=tf.constant(1),
        shared_name="short",
    )

    assert np.isnan(distances[0]).sum() == 10
    np.testing.assert_array_equal(rows[0][20:], 0)
    assert not np.isnan(distances[1]).any()


def test_a_searcher_that_was_released_is_gone_and_made_anew_by_the_next_search():
    embeddings = tf.Variable(EMBEDDINGS)
    parameters = IndexParameters(num_leaves=9, leaves_to_search=9)
    config = _scann_internals.searcher_config(embeddings, parameters)
    state = _scann_internals.build(embeddings, config, "released-build")

    def search() -> np.ndarray:
        rows, _ = _scann_internals.search(
            embeddings,
            state,
            tf.constant(EMBEDDINGS[:4]),
            k=tf.constant(5),
            reorder=tf.constant(300),
            leaves_to_search=tf.constant(9),
            shared_name="released",
        )
        return rows.numpy()

    before = search()
    ops = register_scann_ops()
    handle = ops.scann_tensors_to_scann(x=embeddings, **state, shared_name="released")
    _scann_internals.release(embeddings, state, "released")

    with pytest.raises(tf.errors.NotFoundError):
        tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=False)
    np.testing.assert_array_equal(search(), before)

"""All that relies on what ScaNN does not document: its config text and its TensorFlow ops.

ScaNN's own Python classes keep a searcher in memory; a SavedModel needs the tensors that a
searcher is made of, as variables, and an op that makes a searcher of them when it is loaded. Both
exist in ScaNN as ops without documentation. Tensors are passed by name, so that a version that
reorders them changes nothing, and one that renames them fails here and nowhere else.
"""

from collections.abc import Mapping

import tensorflow as tf

from tfrs_twotower.index.parameters import IndexParameters
from tfrs_twotower.schema.scann_ops import register_scann_ops

# ScaNN joins smaller leaves to others: with its own 50 there are fewer leaves than were asked for.
SMALLEST_LEAF = 10
# The embeddings, which `CandidateIndex` has as a variable already: kept twice, they would double
# the size of a SavedModel.
_EMBEDDINGS = "dataset"


def searcher_config(embeddings: tf.Variable, parameters: IndexParameters | None) -> str:
    """What ScaNN builds a searcher by: a text proto.

    Args:
        embeddings: `[num_candidates, embedding_dim]` float32.
        parameters: Of the tree; None: brute force.
    """
    from scann.scann_ops.py.scann_builder import ScannBuilder

    # The default k, which every search overrides.
    builder = ScannBuilder(embeddings, num_neighbors=10, distance_measure="dot_product")
    if parameters is None:
        return str(builder.score_brute_force().create_config())
    builder.tree(
        parameters.num_leaves,
        parameters.leaves_to_search,
        # Leaves begin as k-means++ chooses them: ScaNN's random choice takes no seed.
        random_init=False,
        # Leaf centres have one length, as the embeddings do. Otherwise the long centres, those of
        # dense leaves, would have the largest products with any query.
        spherical=True,
        min_partition_size=SMALLEST_LEAF,
    )
    builder.score_ah(parameters.dimensions_per_block, parameters.anisotropic_threshold)
    return str(builder.reorder(parameters.reorder).create_config())


def build(embeddings: tf.Variable, config: str, shared_name: str) -> dict[str, tf.Tensor]:
    """Builds a searcher and takes it apart.

    Args:
        embeddings: `[num_candidates, embedding_dim]` float32.
        config: See `searcher_config`.
        shared_name: Under which the searcher is registered while it lives; of no other one.

    Returns:
        The tensors that `search` makes a searcher of, by ScaNN's names, the embeddings left out.
    """
    ops = register_scann_ops()
    searcher = ops.scann_scann_create_searcher(
        x=embeddings, scann_config=config, training_threads=0, shared_name=shared_name
    )
    tensors = ops.scann_scann_to_tensors(scann_handle=searcher)._asdict()
    # It would live as long as the process, with a copy of the embeddings.
    tf.raw_ops.DestroyResourceOp(resource=searcher)
    # The scalars stand for tensors that this kind of searcher does not use, and ScaNN leaves them
    # uninitialised: as they come, two builds of one index would differ.
    return {
        name: tensor if tensor.shape.rank else tf.zeros_like(tensor)
        for name, tensor in tensors.items()
        if name != _EMBEDDINGS
    }


def search(
    embeddings: tf.Variable,
    state: Mapping[str, tf.Variable],
    queries: tf.Tensor,
    *,
    k: tf.Tensor,
    reorder: tf.Tensor,
    leaves_to_search: tf.Tensor,
    shared_name: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Searches, in a graph; the first call in a process makes the searcher.

    Args:
        embeddings: As of `build`.
        state: What `build` returned, as variables.
        queries: `[batch, embedding_dim]` float32.
        k: int32 scalar, how many candidates each query wants.
        reorder: int32 scalar, how many of them are scored again, at least `k`; -1: by the config.
        leaves_to_search: int32 scalar; -1: by the config.
        shared_name: Calls with the same name share one searcher, whatever their tensors: every
            index needs its own.

    Returns:
        Rows `[batch, at most k]` int32 and distances of the same shape. A query for which the
        leaves hold fewer than `k` candidates is padded with row 0 and distance NaN; where this
        holds for all queries, there are fewer columns instead.
    """
    ops = register_scann_ops()
    searcher = ops.scann_tensors_to_scann(x=embeddings, **state, shared_name=shared_name)
    rows, distances = ops.scann_scann_search_batched(
        scann_handle=searcher,
        queries=queries,
        final_num_neighbors=k,
        pre_reordering_num_neighbors=reorder,
        leaves_to_search=leaves_to_search,
        parallel=True,
    )
    return tf.ensure_shape(rows, [None, None]), tf.ensure_shape(distances, [None, None])


def release(embeddings: tf.Variable, state: Mapping[str, tf.Variable], shared_name: str) -> None:
    """Frees the searcher that searches with these arguments have made."""
    ops = register_scann_ops()
    searcher = ops.scann_tensors_to_scann(x=embeddings, **state, shared_name=shared_name)
    tf.raw_ops.DestroyResourceOp(resource=searcher)

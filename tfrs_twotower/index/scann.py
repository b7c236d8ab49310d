"""ScaNN in the graph of a SavedModel."""

import hashlib
import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.candidate_index import CandidateIndex, rarely
from tfrs_twotower.schema.index import Index as IndexConfig

# Below this many candidates a tree has nothing to save (and ScaNN's hashing needs 16 of them).
SMALLEST_TREE = 256


# ScaNN joins smaller leaves to others: with its own 50 there are fewer leaves than were asked for.
SMALLEST_LEAF = 10


DEFAULT_DIMENSIONS_PER_BLOCK, DEFAULT_REORDER = 2, 500


# How many times more candidates than asked for ScaNN looks at when it needs a wider search.
OVERSAMPLING = 2


def scann_op_library() -> Path:
    """Where ScaNN's TensorFlow ops are; finding them imports nothing."""
    spec = importlib.util.find_spec("scann")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no module named 'scann': pip install 'scann[tf]'")
    return Path(spec.origin).parent / "scann_ops" / "cc" / "_scann_ops.so"


def register_scann_ops() -> ModuleType:
    """Makes ScaNN's ops known to TensorFlow in this process; needed before a model is loaded.

    Returns:
        The Python wrappers of the ops.
    """
    return tf.load_op_library(str(scann_op_library()))


class Measures(NamedTuple):
    """How a tree is built (the first two) and searched."""

    num_leaves: int
    dimensions_per_block: int  # Of which quantisation keeps four bits.
    leaves_to_search: int
    reorder: int  # Candidates that are scored again, exactly, at least as many as wanted.


def measures_of(config: IndexConfig, num_candidates: int) -> Measures:
    """The measures of a config that has not been tuned.

    Leaves are about the square root of the corpus, and hold at least 16 candidates each.
    """
    wanted = config.num_leaves or math.isqrt(num_candidates)
    num_leaves = max(min(wanted, num_candidates // 16), 1)
    leaves_to_search = min(config.leaves_to_search or math.ceil(num_leaves / 10), num_leaves)
    return Measures(
        num_leaves,
        config.dimensions_per_block or DEFAULT_DIMENSIONS_PER_BLOCK,
        leaves_to_search,
        config.reorder or DEFAULT_REORDER,
    )


def has_tree(config: IndexConfig, num_candidates: int) -> bool:
    """Whether a corpus of that size is searched by a tree, not by brute force."""
    return num_candidates >= max(config.brute_force_below, SMALLEST_TREE)


class ScannIndex(CandidateIndex):
    """ScaNN, mended: what it fails to find is completed exactly, and scores are exact.

    ScaNN pads the answer to a query with row 0 and a distance of NaN, or returns fewer columns
    than asked for, when the leaves it searched hold too few candidates. Such queries are answered
    by `ExactIndex`'s method instead.
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.float32],
        config: IndexConfig,
        measures: Measures | None = None,
    ) -> None:
        """Builds the index; the same arguments give the same index.

        Args:
            embeddings: See `CandidateIndex`.
            config: Brute force or a tree, and its measures.
            measures: Instead of those of the config.
        """
        super().__init__(embeddings)
        self._config = config
        self._has_tree = has_tree(config, self.num_candidates)
        self._measures = measures or measures_of(config, self.num_candidates)
        self._ops = register_scann_ops()
        scann_config = self._scann_config()
        digest = hashlib.sha256(scann_config.encode())
        digest.update(np.ascontiguousarray(embeddings).data)
        # Signatures of a model share one searcher by this name, two models never do.
        self._shared_name = f"scann-{digest.hexdigest()[:16]}"
        self._state = self._build(scann_config)

    @property
    def parameters(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        if not self._has_tree:
            return {"kind": "scann", "method": "brute_force"}
        return {
            "kind": "scann",
            "method": "tree_ah",
            **self._measures._asdict(),
            "anisotropic_threshold": self._config.anisotropic_threshold,
            "at": self._config.at,
        }

    @property
    def searcher_bytes(self) -> int:
        """A copy of the embeddings and of ScaNN's own state."""
        embeddings = 4 * self.num_candidates * self.embedding_dim
        return embeddings + sum(int(tf.size(v)) * v.dtype.size for v in self._state)

    def search_with(self, measures: Measures) -> None:
        """Changes how the tree is searched from now on; functions traced before keep theirs.

        Args:
            measures: Their first two must be those that the tree was built with.
        """
        if measures[:2] != self._measures[:2]:
            raise ValueError(f"the tree was built with {self._measures}, not {measures}.")
        self._measures = measures

    def search_trial(
        self, queries: tf.Tensor, k: tf.Tensor, leaves_to_search: tf.Tensor, reorder: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`search`, with measures that are known only when it runs; for trying them."""
        return self._search(
            queries, k, lambda some, k: self._find_by_scann(some, k, leaves_to_search, reorder)
        )

    def _scann_config(self) -> str:
        from scann.scann_ops.py.scann_builder import ScannBuilder

        builder = ScannBuilder(self.embeddings, num_neighbors=10, distance_measure="dot_product")
        if not self._has_tree:
            return str(builder.score_brute_force().create_config())
        measures = self._measures
        # Leaves begin as k-means++ chooses them: ScaNN's random choice has no seed. Their centres
        # have one length, as the embeddings do: long ones, of dense leaves, would come first.
        builder.tree(
            measures.num_leaves,
            measures.leaves_to_search,
            random_init=False,
            spherical=True,
            min_partition_size=SMALLEST_LEAF,
        )
        builder.score_ah(measures.dimensions_per_block, self._config.anisotropic_threshold)
        return str(builder.reorder(measures.reorder).create_config())

    def _build(self, scann_config: str) -> list[tf.Variable]:
        searcher = self._ops.scann_scann_create_searcher(
            x=self.embeddings,
            scann_config=scann_config,
            training_threads=0,
            shared_name=f"{self._shared_name}-build",
        )
        # The last tensor is the embeddings, which are kept once.
        *state, _ = self._ops.scann_scann_to_tensors(searcher)
        tf.raw_ops.DestroyResourceOp(resource=searcher)
        return [
            tf.Variable(_without_garbage(tensor), trainable=False, name="scann") for tensor in state
        ]

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        if not self._has_tree:
            return self._find_by_scann(queries, k, tf.constant(-1), tf.constant(-1))
        measures = self._measures
        # What suits k = `at` suits a smaller one, and grows with a larger one.
        reorder = tf.maximum(measures.reorder, -(-measures.reorder * k // self._config.at))
        least = tf.where(k > self._config.at, OVERSAMPLING * k, k)
        leaf_size = self.num_candidates // measures.num_leaves
        leaves = tf.clip_by_value(
            OVERSAMPLING * k // leaf_size, measures.leaves_to_search, measures.num_leaves
        )
        return self._find_by_scann(queries, k, leaves, tf.maximum(reorder, least))

    def _find_by_scann(
        self, queries: tf.Tensor, k: tf.Tensor, leaves: tf.Tensor, reorder: tf.Tensor
    ) -> tf.Tensor:
        config, partitioner, leaf_of_row, codebook, hashed, int8, multipliers, norms = self._state
        searcher = self._ops.scann_tensors_to_scann(
            self.embeddings,
            config,
            partitioner,
            leaf_of_row,
            codebook,
            hashed,
            int8,
            multipliers,
            norms,
            shared_name=self._shared_name,
        )
        rows, distances = self._ops.scann_scann_search_batched(
            searcher, queries, k, reorder, leaves, parallel=True
        )
        rows, distances = (
            tf.ensure_shape(rows, [None, None]),
            tf.ensure_shape(distances, [None, None]),
        )
        is_short = tf.reduce_any(tf.math.is_nan(distances), axis=1) | (tf.shape(rows)[1] < k)

        def complete() -> tf.Tensor:
            short = tf.where(is_short)
            exact = self._find_exactly(tf.gather_nd(queries, short), k)
            wide = tf.pad(rows, [[0, 0], [0, k - tf.shape(rows)[1]]])
            return tf.tensor_scatter_nd_update(wide, short, exact)

        return tf.cond(tf.reduce_any(is_short), rarely(complete), lambda: rows)


def _without_garbage(tensor: tf.Tensor) -> tf.Tensor:
    """ScaNN leaves the scalars that stand for unused tensors uninitialised."""
    return tf.zeros_like(tensor) if not tensor.shape.rank else tensor

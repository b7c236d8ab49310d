"""ScaNN in the graph of a SavedModel, without its wrong answers."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index import _scann_internals
from tfrs_twotower.index.base import OVERSAMPLING, CandidateIndex
from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.parameters import SMALLEST_TREE, IndexParameters, Parameters

# Among the tensors of a searcher: the leaf of each candidate.
_LEAF_OF = "datapoint_to_token"


class ScannIndex(CandidateIndex):
    """ScaNN, corrected: what it fails to find is completed exactly, and scores are exact.

    ScaNN pads the answer to a query with row 0 and a distance of NaN, or returns fewer columns
    than asked for, when the leaves it searched hold too few candidates. Such queries are answered
    by exact search instead.
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.float32],
        parameters: IndexParameters | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Builds the index; the same arguments give the same index.

        Args:
            embeddings: See `CandidateIndex`; of length 1, if the tree is to find the largest dot
                products.
            parameters: Of the tree; None: brute force, which suits corpora of up to some ten
                thousand candidates.
            state: What such an index is made of, as it was saved; None: it is built.

        Raises:
            ValueError: See `CandidateIndex`; or if there are fewer than 256 candidates for a tree.
            UserError: If ScaNN's ops cannot be loaded.
        """
        super().__init__(embeddings)
        if parameters is not None and self.num_candidates < SMALLEST_TREE:
            raise ValueError(
                f"a tree takes at least {SMALLEST_TREE} candidates, got {self.num_candidates}: "
                "leave `parameters` out for brute force."
            )
        self._parameters = parameters
        config = _scann_internals.searcher_config(self.embeddings, parameters)
        digest = hashlib.sha256(config.encode())
        digest.update(np.ascontiguousarray(embeddings).data)
        # Signatures of a model share one searcher by this name, two models never do.
        self._shared_name = f"scann-{digest.hexdigest()[:16]}"
        if state is None:
            state = _scann_internals.build(self.embeddings, config, f"{self._shared_name}-build")
        self._state = {
            name: tf.Variable(tensor, trainable=False, name=f"scann_{name}")
            for name, tensor in state.items()
        }
        if parameters is not None:
            self.leaves = CandidateLeaves(embeddings, self.leaf_of, parameters.num_leaves)

    @property
    def parameters(self) -> IndexParameters | None:
        """How the tree is built and searched; None: brute force."""
        return self._parameters

    @property
    def leaf_of(self) -> npt.NDArray[np.int32]:
        """The leaf of each candidate, `[num_candidates]`; of an index with a tree."""
        return np.asarray(self._state[_LEAF_OF].numpy())

    @property
    def description(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        if self._parameters is None:
            return {"kind": "scann", "method": "brute_force"}
        return {"kind": "scann", "method": "tree_ah", **self._parameters.as_dict()}

    @property
    def searcher_bytes(self) -> int:
        """A copy of the embeddings and of ScaNN's own state."""
        embeddings = 4 * self.num_candidates * self.embedding_dim
        state = self._state.values()
        return embeddings + sum(int(tf.size(v)) * v.dtype.size for v in state)

    def release(self) -> None:
        """Frees the searcher, which would live as long as the process."""
        _scann_internals.release(self.embeddings, self._state, self._shared_name)

    def search_with(self, parameters: Parameters) -> None:
        """Changes how the tree is searched from now on; functions traced before keep theirs.

        Args:
            parameters: Only `leaves_to_search`, `reorder` and `at` may differ from those of now.

        Raises:
            ValueError: If they describe another tree, or the index has none.
        """
        now = self._parameters
        if (
            now is None
            or not isinstance(parameters, IndexParameters)
            or parameters
            != dataclasses.replace(
                now,
                leaves_to_search=parameters.leaves_to_search,
                reorder=parameters.reorder,
                at=parameters.at,
            )
        ):
            raise ValueError(f"the index was built with {now}, which {parameters} cannot search.")
        self._parameters = parameters

    def search_trial(
        self, queries: tf.Tensor, k: tf.Tensor, leaves_to_search: tf.Tensor, reorder: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`search` with parameters that are known only when it runs, to try several of them.

        Args:
            queries: See `search`.
            k: See `search`; at most `reorder`.
            leaves_to_search: int32 scalar; see `IndexParameters`.
            reorder: int32 scalar; see `IndexParameters`.
        """
        return self._search(
            queries, k, lambda some, k: self._find_by_scann(some, k, leaves_to_search, reorder)
        )

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        return self.find_more(queries, k, tf.constant(0))

    def find_more(self, queries: tf.Tensor, k: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
        """The best rows in any order, searched as for `k`, and the next that this brings along.

        Args:
            queries: See `search`.
            k: See `search`.
            more: int32 scalar, how many beyond `k`; both together at most `num_candidates`.

        Returns:
            `[batch, k + more]` int32, distinct.
        """
        parameters = self._parameters
        if parameters is None:
            return self._find_by_scann(queries, k + more, tf.constant(-1), tf.constant(-1))
        # What suits k = `at` suits a smaller one, and grows with a larger one.
        reorder = tf.maximum(parameters.reorder, -(-parameters.reorder * k // parameters.at))
        least = tf.where(k > parameters.at, OVERSAMPLING * k, k)
        leaf_size = self.num_candidates // parameters.num_leaves
        leaves = tf.maximum(OVERSAMPLING * k // leaf_size, _leaves_for(parameters, k))
        leaves = tf.minimum(leaves, parameters.num_leaves)
        reorder = tf.maximum(tf.maximum(reorder, least), k + more)
        return self._find_by_scann(queries, k + more, leaves, reorder)

    def _find_by_scann(
        self, queries: tf.Tensor, k: tf.Tensor, leaves: tf.Tensor, reorder: tf.Tensor
    ) -> tf.Tensor:
        rows, distances = _scann_internals.search(
            self.embeddings,
            self._state,
            queries,
            k=k,
            reorder=reorder,
            leaves_to_search=leaves,
            shared_name=self._shared_name,
        )
        is_short = tf.reduce_any(tf.math.is_nan(distances), axis=1) | (tf.shape(rows)[1] < k)
        return self._completed(queries, k, rows, is_short)


def _leaves_for(parameters: IndexParameters, k: tf.Tensor) -> tf.Tensor:
    """In how many leaves to search for `k` candidates, int32 scalar.

    As many as suit k = `at`, and for a smaller k too. For a larger k they grow with its square
    root, which keeps the recall: of 100,000 clustered candidates 0.91 of the best 100, 0.90 of the
    best 300 and 0.91 of the best 1,500 were found.
    """
    times = tf.sqrt(tf.maximum(tf.cast(k, tf.float32) / parameters.at, 1.0))
    return tf.cast(tf.math.ceil(parameters.leaves_to_search * times), tf.int32)

"""Approximate search with stock TensorFlow ops: inverted lists of whole embeddings."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.base import CACHE_ELEMENTS, OVERSAMPLING, CandidateIndex
from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.control_flow import in_chunks
from tfrs_twotower.index.leaves import partition
from tfrs_twotower.index.outside import NO_ROW, OutsideRows
from tfrs_twotower.index.parameters import IvfParameters, Parameters


class Leaves(NamedTuple):
    """What the index is made of beside the embeddings, as arrays.

    Attributes:
        rows: `[num_leaves, leaf_size]` int32 candidate rows; -1: an empty slot.
        vectors: `[num_leaves, leaf_size, embedding_dim]` `leaf_dtype`, their embeddings.
        centres: `[num_leaves, embedding_dim]` float32, of length 1.
    """

    rows: npt.NDArray[np.int32]
    vectors: npt.NDArray[Any]
    centres: npt.NDArray[np.float32]


def build_leaves(embeddings: npt.NDArray[np.float32], parameters: IvfParameters) -> Leaves:
    """The leaves of a corpus; the same arguments give the same leaves.

    Args:
        embeddings: See `CandidateIndex`; of length 1, if leaves are to hold what has the largest
            dot products.
        parameters: Of the leaves.
    """
    dim = embeddings.shape[1]
    members_of = partition(embeddings, parameters.num_leaves, parameters.leaf_size)
    rows = np.full([len(members_of), parameters.leaf_size], NO_ROW, np.int32)
    vectors = np.zeros([*rows.shape, dim], tf.as_dtype(parameters.leaf_dtype).as_numpy_dtype)
    centres = np.empty([len(members_of), dim], np.float32)
    for leaf, members in enumerate(members_of):
        rows[leaf, : len(members)] = members
        vectors[leaf, : len(members)] = embeddings[members]
        centre = embeddings[members].mean(axis=0)
        centres[leaf] = centre / max(float(np.linalg.norm(centre)), 1e-12)
    return Leaves(rows, vectors, centres)


class IvfIndex(CandidateIndex):
    """Inverted lists (IVF): a query is scored with the candidates of the nearest leaves only.

    Sivic & Zisserman 2003, "Video Google"; without codes, as faiss' `IndexIVFFlat`. All ops are
    stock TensorFlow's, so every server can load it. A leaf is a block of one size, read in one
    piece: its empty slots are the price, and a second copy of the embeddings. Candidates that are
    in no leaf are scored for every query.
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.float32],
        parameters: IvfParameters,
        leaves: Leaves | None = None,
    ) -> None:
        """Builds the index; the same arguments give the same index.

        Args:
            embeddings: See `CandidateIndex`.
            parameters: Of the leaves.
            leaves: Of an earlier corpus, with the rows of this one; None: see `build_leaves`.

        Raises:
            ValueError: See `CandidateIndex`.
        """
        super().__init__(embeddings)
        self._parameters = parameters
        if leaves is None:
            leaves = build_leaves(embeddings, parameters)
        self._rows, self._vectors, self._centres = (
            tf.Variable(value, trainable=False, name=f"leaf_{name}")
            for name, value in leaves._asdict().items()
        )
        self._outside = OutsideRows(embeddings, leaves.rows)
        self.leaves = CandidateLeaves.of_rows(embeddings, leaves.rows)

    @property
    def parameters(self) -> IvfParameters:
        """How the leaves are built and searched."""
        return self._parameters

    @property
    def num_leaves(self) -> int:
        """How many leaves there are, after halving."""
        return int(self._rows.shape[0])

    @property
    def description(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        return {"kind": "ivf", **self._parameters.as_dict(), **self._outside.description}

    @property
    def searcher_bytes(self) -> int:
        """The leaves that are copied at a time, of some runs at once."""
        return 4 * 4 * CACHE_ELEMENTS

    def search_with(self, parameters: Parameters) -> None:
        """Changes how the leaves are searched from now on; functions traced before keep theirs.

        Args:
            parameters: Only `leaves_to_search` and `at` may differ from those of now.

        Raises:
            ValueError: If they describe other leaves.
        """
        now = self._parameters
        if not isinstance(parameters, IvfParameters) or parameters != dataclasses.replace(
            now, leaves_to_search=parameters.leaves_to_search, at=parameters.at
        ):
            raise ValueError(f"the index was built with {now}, which {parameters} cannot search.")
        self._parameters = parameters

    def search_trial(
        self, queries: tf.Tensor, k: tf.Tensor, leaves_to_search: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """`search` with a number of leaves that is known only when it runs, to try several.

        Args:
            queries: See `search`.
            k: See `search`.
            leaves_to_search: int32 scalar; see `IvfParameters`.
        """
        return self._search(
            queries, k, lambda some, k: self._find_in_leaves(some, k, leaves_to_search)
        )

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        parameters = self._parameters
        # What suits k = `at` suits a smaller one, and grows with a larger one.
        wider = -(-parameters.leaves_to_search * k // parameters.at)
        filled = max(self.num_candidates // self.num_leaves, 1)
        least = OVERSAMPLING * k // filled
        leaves = tf.maximum(tf.maximum(wider, least), parameters.leaves_to_search)
        return self._find_in_leaves(queries, k, leaves)

    def _find_in_leaves(self, queries: tf.Tensor, k: tf.Tensor, leaves: tf.Tensor) -> tf.Tensor:
        leaves = tf.minimum(leaves, self.num_leaves)
        num_slots = leaves * self._parameters.leaf_size

        def best(some: tf.Tensor) -> tf.Tensor:
            scores = tf.matmul(some, self._centres, transpose_b=True)
            nearest = tf.math.top_k(scores, leaves, sorted=False).indices
            vectors = _of_leaves(self._vectors, nearest, [num_slots, self.embedding_dim])
            rows = _of_leaves(self._rows, nearest, [num_slots])
            # Not in bfloat16: its result would be rounded too, and be slow on most processors.
            vectors = tf.cast(vectors, tf.float32)
            scores = tf.matmul(some[:, tf.newaxis], vectors, transpose_b=True)[:, 0]
            found, is_short = self._outside.best_of_both(some, rows, scores, k)
            return self._completed(some, k, found, is_short)

        return in_chunks(
            best,
            (queries,),
            CACHE_ELEMENTS // (num_slots * self.embedding_dim),
            tf.TensorSpec([None, None], tf.int32),
        )


def _of_leaves(variable: tf.Variable, leaves: tf.Tensor, shape: list[Any]) -> tf.Tensor:
    """`[batch, *shape]`: the blocks of `[batch, n]` leaves, one after the other."""
    # See `CandidateIndex._score` for why it is not gathered from the variable itself.
    blocks = tf.gather(tf.convert_to_tensor(variable), leaves)
    return tf.reshape(blocks, [tf.shape(leaves)[0], *shape])

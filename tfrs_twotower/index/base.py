"""What every index has in common: scores, chunks, the order of an answer."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.control_flow import in_chunks, rarely
from tfrs_twotower.index.parameters import Parameters

# Elements of the largest intermediate tensor of a search: 64 MB of float32.
CHUNK_ELEMENTS = 16_000_000
# Elements of what is copied for some queries at a time: 8 MB of float32, so that what has been
# copied is still in the processor's cache when it is multiplied.
CACHE_ELEMENTS = 2_000_000
# How many times more candidates than wanted lie in the leaves of a wider search.
OVERSAMPLING = 2
# By which power of the number of candidates wanted the leaves grow that a filter is searched in. Of
# 200,000 clustered candidates, a tenth eligible, 0.945 of the best 100 were found in the leaves of
# ScaNN (0.948 without a filter), 0.943 in inverted lists; with the square root 0.88 in both.
LEAVES_POWER = 0.75


class CandidateIndex(tf.Module):
    """The embeddings of the corpus and a way to search them.

    A score is the dot product, always computed by `score`: the same pair has the same score to
    the last bit, whatever the index, the batch and the signature.

    Attributes:
        leaves: Of the candidates; None: there are none.
    """

    leaves: CandidateLeaves | None = None

    def __init__(self, embeddings: npt.NDArray[np.float32]) -> None:
        """Keeps the embeddings as a variable.

        Args:
            embeddings: `[num_candidates, embedding_dim]` float32, finite, in the order of
                candidate rows.

        Raises:
            ValueError: If there is no candidate, or an embedding is not finite.
        """
        super().__init__()
        if embeddings.ndim != 2 or not embeddings.size:
            raise ValueError(
                "`embeddings` must be one row a candidate, at least one: expected shape "
                f"(num_candidates, embedding_dim), got {embeddings.shape}."
            )
        if not np.isfinite(embeddings).all():
            raise ValueError("`embeddings` must be finite, got NaN or infinity.")
        self.embeddings = tf.Variable(
            embeddings.astype(np.float32, copy=False), trainable=False, name="candidate_embeddings"
        )

    @property
    def num_candidates(self) -> int:
        """How many candidates the corpus has."""
        return int(self.embeddings.shape[0])

    @property
    def embedding_dim(self) -> int:
        """Width of an embedding."""
        return int(self.embeddings.shape[1])

    @property
    def parameters(self) -> Parameters | None:
        """How leaves are built and searched; None: there are none."""
        return None

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """The kind of the index and what it was built with, as the manifest holds it."""

    @property
    @abstractmethod
    def searcher_bytes(self) -> int:
        """Forecast of the memory that a search needs beside the variables."""

    def release(self) -> None:
        """Frees what searches have made beside the variables; an index that is not used again."""

    def score(self, query_embeddings: tf.Tensor, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Scores given candidates.

        Args:
            query_embeddings: `[batch, embedding_dim]` float32.
            candidate_rows: `[batch, n]` int, each within the corpus.

        Returns:
            `[batch, n]` float32.
        """
        return in_chunks(
            self._score,
            (query_embeddings, candidate_rows),
            self.vectors_at_once // tf.maximum(tf.shape(candidate_rows)[1], 1),
            tf.TensorSpec([None, None], tf.float32),
        )

    def score_many(self, query_embedding: tf.Tensor, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Scores candidates of one query, of which there may be as many as the corpus has.

        Args:
            query_embedding: `[embedding_dim]` float32.
            candidate_rows: `[n]` int, each within the corpus.

        Returns:
            `[n]` float32.
        """
        num_rows = tf.shape(candidate_rows)[0]
        width = tf.clip_by_value(num_rows, 1, self.vectors_at_once)
        num_chunks = -(-num_rows // width)
        padded = tf.pad(candidate_rows, [[0, num_chunks * width - num_rows]])
        scores = self.score(
            tf.repeat(query_embedding[tf.newaxis], num_chunks, axis=0),
            tf.reshape(padded, [num_chunks, width]),
        )
        return tf.reshape(scores, [-1])[:num_rows]

    def search(self, query_embeddings: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the best candidates of each query.

        Args:
            query_embeddings: `[batch, embedding_dim]` float32, finite; the batch may be empty.
            k: int32 scalar, 1 or more.

        Returns:
            Candidate rows `[batch, min(k, num_candidates)]` int64, distinct, by score and where
            scores are equal by row; and their scores, float32.
        """
        return self._search(query_embeddings, k, self._find)

    def _search(
        self,
        query_embeddings: tf.Tensor,
        k: tf.Tensor,
        find: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        k = tf.minimum(k, self.num_candidates)

        def best(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.sort(find(queries, k), axis=1)
            # Of equal scores top_k takes the first, which is the lower row.
            scores, order = tf.math.top_k(self._score(queries, rows), k)
            return tf.cast(tf.gather(rows, order, batch_dims=1), tf.int64), scores

        return in_chunks(
            best,
            (query_embeddings,),
            self.vectors_at_once // k,
            (tf.TensorSpec([None, None], tf.int64), tf.TensorSpec([None, None], tf.float32)),
        )

    def near(self, queries: tf.Tensor, num_wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The leaves in which the best of each query probably are; of an index that has leaves.

        As `leaves_to_search` suits `at` candidates, a power of how many more are wanted tells how
        many more leaves suit these.

        Args:
            queries: `[batch, embedding_dim]` float32.
            num_wanted: `[batch]` float32, how many of the whole corpus; 0: no leaf.

        Returns:
            See `CandidateLeaves.near`.
        """
        parameters = self.parameters
        assert self.leaves is not None
        assert parameters is not None
        num_leaves = self.leaves.num_leaves
        times = tf.pow(tf.maximum(num_wanted / parameters.at, 1.0), LEAVES_POWER)
        least = OVERSAMPLING * num_leaves / self.num_candidates * num_wanted
        leaves = tf.minimum(tf.maximum(parameters.leaves_to_search * times, least), num_leaves)
        leaves = tf.cast(tf.math.ceil(tf.where(num_wanted > 0, leaves, 0.0)), tf.int32)
        return self.leaves.near(queries, leaves)

    def best_of(
        self, queries: tf.Tensor, rows: tf.Tensor, is_eligible: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of given candidates, up to rounding.

        Args:
            queries: `[batch, embedding_dim]` float32.
            rows: `[batch, n]` int64, each within the corpus.
            is_eligible: `[batch, n]` bool.
            k: int32 scalar, at most n.

        Returns:
            `[batch, k]` rows in any order, and which of them are eligible.
        """

        def best(some: tf.Tensor, rows: tf.Tensor, is_eligible: tf.Tensor) -> tf.Tensor:
            vectors = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
            scores = tf.matmul(some[:, tf.newaxis], vectors, transpose_b=True)[:, 0]
            scores = tf.where(is_eligible, scores, scores.dtype.min)
            return tf.math.top_k(scores, k, sorted=False).indices

        num_elements = tf.maximum(tf.shape(rows)[1], 1) * self.embedding_dim
        places = in_chunks(
            best,
            (queries, rows, is_eligible),
            CACHE_ELEMENTS // num_elements,
            tf.TensorSpec([None, None], tf.int32),
        )
        return (
            tf.gather(rows, places, batch_dims=1),
            tf.gather(is_eligible, places, batch_dims=1),
        )

    @property
    def vectors_at_once(self) -> int:
        """How many embeddings a search copies at a time, at most."""
        return CHUNK_ELEMENTS // self.embedding_dim

    def _score(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        # `tf.gather` of the variable itself would switch it to copy-on-read mode for good: from
        # then on every read copies the whole corpus. Of a tensor it does not.
        embeddings = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
        # Not a matrix product: for a single query its set-up costs more than the search. It would
        # also round differently from batch size to batch size.
        return tf.reduce_sum(queries[:, tf.newaxis] * embeddings, axis=2)

    @abstractmethod
    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        """The best rows of each query, `[batch, k]` int32, distinct, in any order."""

    def _find_exactly(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        def best(chunk: tf.Tensor) -> tf.Tensor:
            return tf.math.top_k(tf.matmul(chunk, self.embeddings, transpose_b=True), k).indices

        return in_chunks(
            best,
            (queries,),
            tf.constant(CHUNK_ELEMENTS // self.num_candidates),
            tf.TensorSpec([None, None], tf.int32),
        )

    def _completed(
        self, queries: tf.Tensor, k: tf.Tensor, rows: tf.Tensor, is_short: tf.Tensor
    ) -> tf.Tensor:
        """Rows with the exact answer in place of those of which there are too few.

        Args:
            queries: `[batch, embedding_dim]`.
            k: int32 scalar.
            rows: `[batch, n]` int32 with n at most k.
            is_short: `[batch]` bool; True: the row of `rows` is replaced. True of all where n < k.

        Returns:
            `[batch, k]` int32.
        """

        def complete() -> tf.Tensor:
            short = tf.where(is_short)
            exact = self._find_exactly(tf.gather_nd(queries, short), k)
            wide = tf.pad(rows, [[0, 0], [0, k - tf.shape(rows)[1]]])
            return tf.tensor_scatter_nd_update(wide, short, exact)

        return tf.cond(tf.reduce_any(is_short), rarely(complete), lambda: rows)

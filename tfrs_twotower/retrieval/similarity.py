"""Scores from stored vectors: ids in, scores out, no tower in between."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.exact import ExactIndex
from tfrs_twotower.retrieval.input_checks import for_each_query
from tfrs_twotower.retrieval.placeholders import NO_SCORE
from tfrs_twotower.retrieval.retriever import CandidateIds, Signature, finite_or_zero
from tfrs_twotower.retrieval.string_table import NO_ROW, StringTable

Tensors = Mapping[str, tf.Tensor]
Floats = npt.NDArray[np.float32]

QUERY_ID, QUERY_EMBEDDING, CANDIDATE_IDS = "query_id", "query_embedding", "candidate_ids"
SCORE, SCORE_EMBEDDING = "score", "score_embedding"


class StoredQueries(tf.Module):
    """Query embeddings computed ahead, by id."""

    def __init__(self, ids: Sequence[str], embeddings: Floats) -> None:
        """Keeps both as variables.

        Args:
            ids: Distinct, not empty, at least one.
            embeddings: `[num_queries, embedding_dim]`, of length 1 or zero.
        """
        super().__init__()
        self._table = StringTable([query_id.encode() for query_id in ids], "query ids")
        self._embeddings = tf.Variable(embeddings, trainable=False, name="query_embeddings")

    def __call__(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeddings of ids `[batch]`, those of unknown ones any; and which ids are known."""
        rows = self._table.rows(ids)
        found = tf.gather(tf.convert_to_tensor(self._embeddings), tf.maximum(rows, 0))
        return found, rows != NO_ROW


class Similarity(tf.Module):
    """Scores given candidates for stored or given query embeddings, by cosine."""

    def __init__(
        self,
        candidate_ids: CandidateIds,
        candidate_embeddings: Floats,
        queries: StoredQueries | None = None,
    ) -> None:
        """Keeps the vectors.

        Args:
            candidate_ids: Of the rows of the embeddings.
            candidate_embeddings: `[num_candidates, embedding_dim]`, of length 1 or zero.
            queries: None: a query always comes as its embedding.
        """
        super().__init__()
        self._ids = candidate_ids
        self._index = ExactIndex(candidate_embeddings)
        self._queries = queries

    def signatures(self) -> dict[str, Signature]:
        """`score_embedding`; with stored queries `score`."""
        dim = self._index.embedding_dim
        embedding = tf.TensorSpec([None, dim], tf.float32, QUERY_EMBEDDING)
        candidate_ids = tf.TensorSpec([None, None], tf.string, CANDIDATE_IDS)
        found = {
            SCORE_EMBEDDING: Signature(
                self.score_embedding, {QUERY_EMBEDDING: embedding, CANDIDATE_IDS: candidate_ids}
            )
        }
        if self._queries is not None:
            query_id = tf.TensorSpec([None], tf.string, QUERY_ID)
            inputs = {QUERY_ID: query_id, CANDIDATE_IDS: candidate_ids}
            found[SCORE] = Signature(self.score, inputs)
        return found

    def score(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Scores candidates for stored queries.

        Args:
            inputs: `query_id` `[batch]`, and `candidate_ids` `[batch, n]`, which may have one row
                for the whole batch.

        Returns:
            `scores` `[batch, n]` float32, -1 to 1. Of an unknown candidate, "" among them, and of
            all candidates of an unknown query the float32 minimum, as the retrieval models answer:
            no cosine is so low, and JSON has neither NaN nor infinity.
        """
        assert self._queries is not None
        embeddings, is_known = self._queries(inputs[QUERY_ID])
        scores = self._scores(embeddings, inputs[CANDIDATE_IDS])
        return {"scores": tf.where(is_known[:, tf.newaxis], scores, NO_SCORE)}

    def score_embedding(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Scores candidates for given query embeddings.

        Args:
            inputs: `query_embedding` `[batch, embedding_dim]`, of any length; one that is not
                finite counts as zero. `candidate_ids` as of `score`.

        Returns:
            As of `score`.
        """
        embeddings = finite_or_zero(inputs[QUERY_EMBEDDING])
        lengths = tf.norm(embeddings, axis=1, keepdims=True)
        unit = tf.math.divide_no_nan(embeddings, lengths)
        return {"scores": self._scores(unit, inputs[CANDIDATE_IDS])}

    def _scores(self, embeddings: tf.Tensor, candidate_ids: tf.Tensor) -> tf.Tensor:
        # Looked up before they are repeated: one row for all is looked up once.
        rows = self._ids.rows(candidate_ids)
        rows = for_each_query(CANDIDATE_IDS, rows, tf.shape(embeddings)[0])
        scores = self._index.score(embeddings, tf.maximum(rows, 0))
        return tf.where(rows != NO_ROW, scores, NO_SCORE)

"""Candidates as they are served: the index and the rules of `recommend`, from query embeddings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.placeholders import NO_ID
from tfrs_twotower.retrieval.retriever import Retriever
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.requests import check_names, one_row, refusal

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

EMBEDDING, K, EXCLUDED = "query_embedding", "k", "exclude_ids"
QUERIES_AT_ONCE = 256
NO_CANDIDATE = -1


class ServedRetriever:
    """The graph of `recommend` as it is exported, without the query tower."""

    def __init__(
        self,
        index: CandidateIndex,
        candidate_ids: npt.NDArray[np.str_],
        attributes: CandidateAttributes,
        *,
        width: int,
        max_k: int,
    ) -> None:
        """Builds the graph.

        Args:
            index: The corpus.
            candidate_ids: `[corpus_size]`, in the order of rows.
            attributes: What rules read of the corpus.
            width: Of a query's embedding.
            max_k: The largest `k` of a call.
        """
        self._ids = np.array([name.encode() for name in candidate_ids], object)
        self._max_k = max_k
        retriever = Retriever(
            _Embedded(width),
            index,
            candidate_ids.tolist(),
            default_k=min(max_k, index.num_candidates),
            max_k=max_k,
            attributes=attributes,
        )
        self._signature = retriever.signatures()["recommend"]
        self._recommend = tf.function(self._signature.function, [dict(self._signature.inputs)])

    def top_rows(
        self,
        query_embeddings: Floats,
        excluded: Pairs,
        k: int,
        rules: Mapping[str, Any] | None = None,
    ) -> Ints:
        """Recommends for queries.

        Args:
            query_embeddings: `[num_queries, width]` float32.
            excluded: Candidates that are not eligible for a query.
            k: How many candidates to recommend, at most `max_k`.
            rules: Other optional inputs of `recommend` for all queries, as JSON holds them.

        Returns:
            `[num_queries, k]` candidate rows, best first; -1 where fewer are eligible.

        Raises:
            UserError: If there is no such rule, or a value is refused.
        """
        inputs = {**self._for_all_queries(rules or {}), K: tf.constant([k], tf.int32)}
        parts = []
        for start in range(0, len(query_embeddings), QUERIES_AT_ONCE):
            end = min(start + QUERIES_AT_ONCE, len(query_embeddings))
            inputs[EMBEDDING] = tf.constant(query_embeddings[start:end])
            inputs[EXCLUDED] = tf.constant(
                self._padded_ids(excluded.between(start, end), end - start)
            )
            try:
                found = self._recommend(inputs)["candidate_ids"].numpy()
            except tf.errors.InvalidArgumentError as error:
                raise UserError(f"the rules are refused: {refusal(error.message)}") from error
            rows = np.searchsorted(self._ids, found.ravel()).reshape(found.shape)
            parts.append(np.where(found == NO_ID.encode(), NO_CANDIDATE, rows))
        return np.concatenate(parts)

    def _for_all_queries(self, rules: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """The given rules as tensors, and the defaults of the others."""
        defaults = self._signature.defaults
        check_names(rules, [name for name in defaults if name not in (K, EXCLUDED)], "rules")
        given = {}
        for name, value in rules.items():
            spec = self._signature.inputs[name]
            dtype = object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
            given[name] = tf.constant(one_row(name, dtype, spec.shape.rank, value), spec.dtype)
        return {**defaults, **given}

    def _padded_ids(self, excluded: Pairs, num_queries: int) -> npt.NDArray[np.object_]:
        """The excluded ids of each query, `[num_queries, most]`, padded with "" at the end."""
        counts = np.bincount(excluded.queries, minlength=num_queries)
        ids = np.full([num_queries, max(int(counts.max()), 1)], NO_ID.encode(), object)
        ids[np.arange(ids.shape[1]) < counts[:, np.newaxis]] = self._ids[excluded.candidate_rows]
        return ids


class _Embedded:
    """Stands in for the query tower: its input is the embedding itself."""

    def __init__(self, width: int) -> None:
        self.inputs = {EMBEDDING: tf.TensorSpec([None, width], tf.float32, EMBEDDING)}

    def __call__(self, raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return raw[EMBEDDING]

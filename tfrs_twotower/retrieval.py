"""What the served models compute: raw features in, embeddings or the best candidates out.

The promise of `retrieval`, for every index: exactly min(k, eligible) distinct eligible candidates,
by score and then by id, none excluded, no NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.encoding import Encoder
from tfrs_twotower.index import CandidateIndex
from tfrs_twotower.schema import UserError

# Stands where there is no score; REST cannot print an infinity.
NO_SCORE = tf.float32.min
NO_ID = ""
NO_ROW = -1
NUM_HASHES = 2**63 - 1

Tensors = Mapping[str, tf.Tensor]


class Signature(NamedTuple):
    """One entry point of a SavedModel."""

    function: Callable[[Tensors], dict[str, tf.Tensor]]
    inputs: Mapping[str, tf.TensorSpec]  # All of them, by name.
    # Of the optional inputs; one row, which stands for every row of the batch.
    defaults: Mapping[str, tf.Tensor] = {}


class Tower(Protocol):
    """A trained tower, such as a Keras model."""

    @property
    def variables(self) -> Sequence[tf.Variable]:
        """All weights."""

    def __call__(self, encoded: Tensors, *, training: bool) -> tf.Tensor:
        """Encoded features by name -> `[batch, embedding_dim]` float32."""


class ServedTower(tf.Module):
    """Raw features -> embedding: what the pipeline does to a record, then the tower."""

    def __init__(self, encoder: Encoder, tower: Tower) -> None:
        """Joins the two, and builds the tower where that has not been done.

        Args:
            encoder: Of the tower's features.
            tower: Called for inference.
        """
        super().__init__()
        self._encoder = encoder
        # The tower itself stays untracked: Keras would save its training functions as well.
        self._embed = lambda encoded: tower(encoded, training=False)
        self._embed(
            {
                name: tf.zeros([1, *spec.shape[1:]], spec.dtype)
                for name, spec in encoder.encoded_specs.items()
            }
        )
        self._tower_variables = list(tower.variables)

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The raw features by name."""
        return self._encoder.raw_specs

    def __call__(self, raw: Tensors) -> tf.Tensor:
        """Embeds a batch.

        Args:
            raw: At least the features of this tower, shaped as `inputs` say.

        Returns:
            `[batch, embedding_dim]` float32, finite: features that overflow (an infinite number)
            give the vector of a query of which nothing is known, zero.
        """
        embeddings = self._embed(self._encoder(raw))
        is_finite = tf.reduce_all(tf.math.is_finite(embeddings), axis=1, keepdims=True)
        return tf.where(is_finite, embeddings, tf.zeros_like(embeddings))

    def signatures(self, output: str) -> dict[str, Signature]:
        """The signatures of a tower that is served alone.

        Args:
            output: "query_embedding" or "candidate_embedding".
        """
        return {"serving_default": Signature(lambda raw: {output: self(raw)}, self.inputs)}


class CandidateIds(tf.Module):
    """The ids of the corpus, in the order of candidate rows, and the way back from id to row.

    Ids are found by their 64-bit hashes in a sorted list: variables of 16 bytes a candidate, where
    a lookup table of strings would be an order of magnitude larger and slow to load.
    """

    def __init__(self, candidate_ids: Sequence[str]) -> None:
        """Keeps the ids as variables.

        Args:
            candidate_ids: Distinct, not empty, sorted by their UTF-8 bytes.

        Raises:
            UserError: If an id is empty or occurs twice.
            ValueError: If the ids are not sorted.
        """
        super().__init__()
        ids = np.array([candidate_id.encode() for candidate_id in candidate_ids], np.object_)
        _check_ids(ids)
        hashes = tf.strings.to_hash_bucket_fast(ids, NUM_HASHES).numpy()
        row_of_hash = np.argsort(hashes, kind="stable")
        hashes = hashes[row_of_hash]
        if (hashes[1:] == hashes[:-1]).any():
            raise UserError("two candidate ids have the same 64-bit hash: rename one of them")
        self._ids = tf.Variable(ids.tolist(), trainable=False, name="candidate_ids")
        self._hashes = tf.Variable(hashes, trainable=False, name="sorted_hashes")
        self._row_of_hash = tf.Variable(row_of_hash, trainable=False, name="row_of_hash")

    def __len__(self) -> int:
        """How many candidates the corpus has."""
        return int(self._ids.shape[0])

    def rows(self, candidate_ids: tf.Tensor) -> tf.Tensor:
        """Candidate rows, int64, of ids of any shape; -1 where an id is unknown or ""."""
        hashes = tf.strings.to_hash_bucket_fast(tf.reshape(candidate_ids, [-1]), NUM_HASHES)
        place = tf.searchsorted(self._hashes, hashes)
        last = len(self) - 1
        rows = tf.gather(tf.convert_to_tensor(self._row_of_hash), tf.minimum(place, last))
        rows = tf.reshape(rows, tf.shape(candidate_ids))
        return tf.where(self.ids(rows) == candidate_ids, rows, tf.constant(NO_ROW, tf.int64))

    def ids(self, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Ids of candidate rows of any shape, each within the corpus."""
        return tf.gather(tf.convert_to_tensor(self._ids), candidate_rows)


class Pool(NamedTuple):
    """Candidates among which an answer is chosen; the eligible ones of a query are distinct."""

    candidate_rows: tf.Tensor  # [batch, n] int64, within the corpus.
    scores: tf.Tensor  # [batch, n] float32; where equal, the lower row comes first.
    is_eligible: tf.Tensor  # [batch, n] bool


class Retriever(tf.Module):
    """Query features -> the best candidates: tower, index, rules."""

    def __init__(
        self,
        query_tower: ServedTower,
        index: CandidateIndex,
        candidate_ids: Sequence[str],
        *,
        default_k: int,
        max_k: int,
    ) -> None:
        """Joins the parts.

        Args:
            query_tower: Raw query features -> query embedding.
            index: The corpus; its rows are those of `candidate_ids`.
            candidate_ids: See `CandidateIds`.
            default_k: How many candidates `serving_default` answers.
            max_k: The largest `k` a request may ask.
        """
        super().__init__()
        if len(candidate_ids) != index.num_candidates:
            raise ValueError(
                "`candidate_ids` must be one a row of `index`: expected "
                f"{index.num_candidates}, got {len(candidate_ids)}."
            )
        self._query_tower = query_tower
        self._index = index
        self._ids = CandidateIds(candidate_ids)
        self._default_k = default_k
        self._max_k = max_k

    def signatures(self) -> dict[str, Signature]:
        """`serving_default`, `recommend` and `score`."""
        features = self._query_tower.inputs
        ids = {
            name: tf.TensorSpec([None, None], tf.string, name)
            for name in ("exclude_ids", "allow_ids", "candidate_ids")
        }
        return {
            "serving_default": Signature(self.serving_default, features),
            "recommend": Signature(
                self.recommend,
                {
                    **features,
                    "k": tf.TensorSpec([None], tf.int32, "k"),
                    "exclude_ids": ids["exclude_ids"],
                    "allow_ids": ids["allow_ids"],
                },
                {
                    "k": tf.constant([self._default_k]),
                    "exclude_ids": tf.constant([[NO_ID]]),
                    "allow_ids": tf.constant([[NO_ID]]),
                },
            ),
            "score": Signature(self.score, {**features, "candidate_ids": ids["candidate_ids"]}),
        }

    def serving_default(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Recommends `default_k` candidates.

        Args:
            inputs: The query features.

        Returns:
            See `recommend`.
        """
        queries = self._query_tower(inputs)
        rows, scores = self._index.search(queries, tf.constant(self._default_k))
        k = tf.fill(tf.shape(queries)[:1], self._default_k)
        return self._answer(Pool(rows, scores, tf.ones_like(rows, tf.bool)), k, self._default_k)

    def recommend(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Recommends under the rules of the request.

        Args:
            inputs: The query features; `k` `[batch]` int32; `exclude_ids` `[batch, n]`, unknown
                ids are ignored; `allow_ids` `[batch, n]`, all "" = no restriction. The last three
                may have one row for the whole batch.

        Returns:
            `candidate_ids` `[batch, largest k]` string, `scores` of the same shape, float32, and
            `valid_count` `[batch]` int32: slots from there on hold "" and the float32 minimum.
        """
        queries = self._query_tower(inputs)
        num_queries = tf.shape(queries)[0]
        k = self._checked_k(inputs["k"])
        width = tf.reduce_max(tf.concat([k, [1]], axis=0))
        k = _for_each_query("k", k, num_queries)
        excluded = self._ids.rows(inputs["exclude_ids"])
        allowed = self._ids.rows(inputs["allow_ids"])
        is_restricted = tf.reduce_any(inputs["allow_ids"] != NO_ID, axis=1)
        excluded = _for_each_query("exclude_ids", excluded, num_queries)
        allowed = _for_each_query("allow_ids", allowed, num_queries)
        is_restricted = _for_each_query("allow_ids", is_restricted, num_queries)

        num_excluded = tf.math.count_nonzero(excluded != NO_ROW, axis=1, dtype=tf.int32)
        to_find = width + tf.reduce_max(tf.concat([num_excluded, [0]], axis=0))
        pool = _concat(
            self._found(queries, to_find, is_restricted),
            self._listed(queries, allowed, is_restricted),
        )
        is_eligible = pool.is_eligible & ~_is_among(pool.candidate_rows, excluded)
        return self._answer(pool._replace(is_eligible=is_eligible), k, width)

    def score(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Scores given candidates.

        Args:
            inputs: The query features, and `candidate_ids` `[batch, n]`, which may have one row
                for the whole batch.

        Returns:
            `scores` `[batch, n]` float32; the float32 minimum for unknown ids.
        """
        queries = self._query_tower(inputs)
        rows = self._ids.rows(inputs["candidate_ids"])
        rows = _for_each_query("candidate_ids", rows, tf.shape(queries)[0])
        scores = self._index.score(queries, tf.maximum(rows, 0))
        return {"scores": tf.where(rows != NO_ROW, scores, NO_SCORE)}

    def _checked_k(self, k: tf.Tensor) -> tf.Tensor:
        is_in_range = tf.reduce_all((k >= 1) & (k <= self._max_k))
        message = [f"`k` must be between 1 and {self._max_k}, got", k]
        with tf.control_dependencies([tf.debugging.Assert(is_in_range, message)]):
            return tf.identity(k)

    def _found(self, queries: tf.Tensor, k: tf.Tensor, is_restricted: tf.Tensor) -> Pool:
        """What the index finds, for queries without an allow-list."""

        def search() -> Pool:
            rows, scores = self._index.search(queries, k)
            is_eligible = tf.ones_like(rows, tf.bool) & ~is_restricted[:, tf.newaxis]
            return Pool(rows, scores, is_eligible)

        return tf.cond(tf.reduce_all(is_restricted), lambda: _no_candidates(queries), search)

    def _listed(self, queries: tf.Tensor, allowed: tf.Tensor, is_restricted: tf.Tensor) -> Pool:
        """What allow-lists hold, for queries that have one."""

        def score() -> Pool:
            rows = tf.sort(allowed, axis=1)
            is_new = tf.pad(rows[:, 1:] != rows[:, :-1], [[0, 0], [1, 0]], constant_values=True)
            is_eligible = is_new & (rows != NO_ROW) & is_restricted[:, tf.newaxis]
            rows = tf.maximum(rows, 0)
            return Pool(rows, self._index.score(queries, rows), is_eligible)

        return tf.cond(tf.reduce_any(is_restricted), score, lambda: _no_candidates(queries))

    def _answer(self, pool: Pool, k: tf.Tensor, width: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, scores = _by_score(pool, width)
        num_eligible = tf.math.count_nonzero(pool.is_eligible, axis=1, dtype=tf.int32)
        valid_count = tf.minimum(k, num_eligible)
        is_valid = tf.range(width) < valid_count[:, tf.newaxis]
        return {
            "candidate_ids": tf.where(is_valid, self._ids.ids(rows), NO_ID),
            "scores": tf.where(is_valid, scores, NO_SCORE),
            "valid_count": valid_count,
        }


def _check_ids(ids: npt.NDArray[np.object_]) -> None:
    if b"" in ids[:1]:
        raise UserError("a candidate id is empty: give every candidate an id")
    is_repeated = ids[1:] == ids[:-1]
    if is_repeated.any():
        repeated = ids[1:][is_repeated][0].decode()
        raise UserError(f"candidate id {repeated!r} occurs twice: ids must be distinct")
    if (ids[1:] < ids[:-1]).any():
        raise ValueError("`candidate_ids` must be sorted by their UTF-8 bytes.")


def _for_each_query(name: str, values: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Repeats an optional input that came as one row for all queries of the batch."""
    num_rows = tf.shape(values)[0]
    fits = (num_rows == 1) | (num_rows == num_queries)
    message = [f"`{name}` must have one row or one a query, got", num_rows, "for", num_queries]
    with tf.control_dependencies([tf.debugging.Assert(fits, message)]):
        shape = tf.concat([[num_queries], tf.shape(values)[1:]], axis=0)
    return tf.broadcast_to(values, shape)


def _no_candidates(queries: tf.Tensor) -> Pool:
    shape = [tf.shape(queries)[0], 0]
    return Pool(tf.zeros(shape, tf.int64), tf.zeros(shape), tf.zeros(shape, tf.bool))


def _concat(first: Pool, second: Pool) -> Pool:
    return Pool(*(tf.concat(both, axis=1) for both in zip(first, second, strict=True)))


def _is_among(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether each of `rows` `[batch, n]` is in its query's row of `others` `[batch, m]`."""
    ascending = tf.sort(tf.pad(others, [[0, 0], [1, 0]], constant_values=NO_ROW), axis=1)
    # `tf.searchsorted` of the same, but for batches without rows.
    place = tf.raw_ops.LowerBound(sorted_inputs=ascending, values=rows)
    last = tf.shape(ascending)[1] - 1
    return tf.gather(ascending, tf.minimum(place, last), batch_dims=1) == rows


def _by_score(pool: Pool, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows and scores of the eligible candidates, best first, padded to `width` columns."""
    scores = tf.where(pool.is_eligible, pool.scores, NO_SCORE)
    missing = tf.maximum(width - tf.shape(scores)[1], 0)
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NO_SCORE)
    rows = tf.pad(pool.candidate_rows, [[0, 0], [0, missing]])
    # Of equal scores top_k takes the first, which is the lower row.
    scores, order = tf.math.top_k(scores, width)
    return tf.gather(rows, order, batch_dims=1), scores

"""What the served models compute: raw features in, embeddings or the best candidates out.

The promise of `retrieval`, for every index: exactly min(k, eligible) distinct eligible candidates
in the order of the rules, none excluded, no NaN. The candidates are chosen from a pool that the
index finds; where the rules leave too few of it, every eligible candidate is scored instead.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.control_flow import rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.input_checks import for_each_query
from tfrs_twotower.retrieval.lists import NO_MORE
from tfrs_twotower.retrieval.placeholders import NO_ID, NO_SCORE
from tfrs_twotower.retrieval.rules.eligibility import Eligibility
from tfrs_twotower.retrieval.rules.filter_lists import FilterLists
from tfrs_twotower.retrieval.rules.plan import NO_LIST, SPARE, Plan, plan_search
from tfrs_twotower.retrieval.rules.ranking import Pool, Ranked, Ranking
from tfrs_twotower.retrieval.rules.reading import RequestReader
from tfrs_twotower.retrieval.rules.request import Request
from tfrs_twotower.retrieval.rules.variety import count_needed, rerank_mmr
from tfrs_twotower.retrieval.string_table import NO_ROW, StringTable
from tfrs_twotower.schema import UserError

Tensors = Mapping[str, tf.Tensor]

POOL_SIZE = "pool_size"


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


class QueryTower(Protocol):
    """Raw query features -> query embedding, in a graph."""

    @property
    def inputs(self) -> Mapping[str, tf.TensorSpec]:
        """The raw features by name."""

    def __call__(self, raw: Tensors) -> tf.Tensor:
        """`[batch, embedding_dim]` float32, finite."""


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
            raw: At least the features of this tower, with the shapes of `inputs`.

        Returns:
            `[batch, embedding_dim]` float32, finite: features that overflow (an infinite number)
            give the vector of a query of which nothing is known, zero.
        """
        return finite_or_zero(self._embed(self._encoder(raw)))

    def signatures(self, output: str) -> dict[str, Signature]:
        """The signatures of a tower that is served alone.

        Args:
            output: "query_embedding" or "candidate_embedding".
        """
        return {"serving_default": Signature(lambda raw: {output: self(raw)}, self.inputs)}


class CandidateIds(StringTable):
    """The ids of the corpus, in the order of candidate rows, and the way back from id to row."""

    def __init__(self, candidate_ids: Sequence[str]) -> None:
        """Keeps the ids as variables.

        Args:
            candidate_ids: Distinct, not empty, sorted by their UTF-8 bytes.

        Raises:
            UserError: If an id is empty or occurs twice.
            ValueError: If the ids are not sorted.
        """
        ids = [candidate_id.encode() for candidate_id in candidate_ids]
        _check_ids(np.array(ids, np.object_))
        super().__init__(ids, "candidate ids")


class Retriever(tf.Module):
    """Query features -> the best candidates: tower, index, rules."""

    def __init__(
        self,
        query_tower: QueryTower,
        index: CandidateIndex,
        candidate_ids: Sequence[str] | CandidateIds,
        *,
        default_k: int,
        max_k: int,
        attributes: CandidateAttributes | None = None,
        joined_tower: QueryTower | None = None,
    ) -> None:
        """Joins the parts.

        Args:
            query_tower: Raw query features -> query embedding.
            index: The corpus; its rows are those of `candidate_ids`.
            candidate_ids: See `CandidateIds`; retrievers of one corpus may share them.
            default_k: How many candidates `serving_default` answers.
            max_k: The largest `k` a request may ask.
            attributes: What rules read of the corpus, in the order of its rows.
            joined_tower: Query embeddings of vectors computed ahead, for `recommend_joined`.
        """
        super().__init__()
        if len(candidate_ids) != index.num_candidates:
            raise ValueError(
                "`candidate_ids` must be one a row of `index`: expected "
                f"{index.num_candidates}, got {len(candidate_ids)}."
            )
        self._query_tower, self._joined_tower = query_tower, joined_tower
        self._index = index
        if not isinstance(candidate_ids, CandidateIds):
            candidate_ids = CandidateIds(candidate_ids)
        self._ids = candidate_ids
        self._reader = RequestReader(self._ids, attributes, max_k=max_k)
        self._filter_lists = FilterLists(attributes, index.leaves)
        self._eligibility = Eligibility(attributes, self._filter_lists)
        self._ranking = Ranking(attributes)
        self._default_k = default_k

    def signatures(self) -> dict[str, Signature]:
        """`serving_default`, `recommend` and `score`; with a joined tower `recommend_joined`."""
        features = self._query_tower.inputs
        candidate_ids = tf.TensorSpec([None, None], tf.string, "candidate_ids")
        joined = {}
        if self._joined_tower is not None:
            joined["recommend_joined"] = Signature(
                self.recommend_joined,
                {**self._joined_tower.inputs, **self._reader.inputs()},
                self._reader.defaults(self._default_k),
            )
        return {
            **joined,
            "serving_default": Signature(self.serving_default, features),
            "recommend": Signature(
                self.recommend,
                {**features, **self._reader.inputs()},
                self._reader.defaults(self._default_k),
            ),
            "score": Signature(self.score, {**features, "candidate_ids": candidate_ids}),
        }

    def serving_default(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Recommends `default_k` candidates.

        Args:
            inputs: The query features.

        Returns:
            See `recommend`; without `pool_size`.
        """
        queries = self._query_tower(inputs)
        k = tf.fill(tf.shape(queries)[:1], self._default_k)
        return self._best(queries, k, tf.constant(self._default_k))

    def recommend(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Recommends under the rules of the request; see `tfrs_twotower.retrieval.rules`.

        Args:
            inputs: The query features, and the inputs of the rules: `k` `[batch]` int32;
                `exclude_ids` `[batch, n]`, unknown ids are ignored; `allow_ids` `[batch, n]`, all
                "" = no restriction; and as the corpus allows `filter_<attribute>_any` and
                `filter_<attribute>_none` `[batch, n]`, `filter_<attribute>_min` and
                `filter_<attribute>_max` `[batch]` float64, `half_life_s` and `now_s` `[batch]`,
                `max_per_category` `[batch]`, `mmr_lambda` `[batch]`, `min_score` `[batch]`. Each of
                these may have one row for the whole batch.

        Returns:
            `candidate_ids` `[batch, largest k]` string, `scores` of the same shape, float32, and
            `valid_count` `[batch]` int32: slots from there on hold "" and the float32 minimum.
            `pool_size` `[batch]` int32: how many eligible candidates were ranked for the answer;
            those that the index found, or all there are where these were too few.
        """
        return self._recommend(self._query_tower(inputs), inputs)

    def recommend_joined(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """`recommend` for user embeddings computed ahead.

        Args:
            inputs: `user_embedding` `[batch, embedding_dim]`, as the signature `user` of
                `query_tower` gives it, the context features, and the inputs of the rules.

        Returns:
            See `recommend`.
        """
        assert self._joined_tower is not None
        return self._recommend(self._joined_tower(inputs), inputs)

    # AutoGraph would take its time to rewrite code that has no Python control flow to rewrite. A
    # query tower may have some: it is called outside.
    @tf.autograph.experimental.do_not_convert
    def _recommend(self, queries: tf.Tensor, inputs: Tensors) -> dict[str, tf.Tensor]:
        num_queries = tf.shape(queries)[0]
        # Of the input: an answer to no query has a width as well.
        width = _largest(inputs["k"])

        def best() -> dict[str, tf.Tensor]:
            k = tf.broadcast_to(inputs["k"], [num_queries])
            num_found = tf.minimum(width, self._index.num_candidates)
            return {**self._best(queries, k, width), POOL_SIZE: tf.fill([num_queries], num_found)}

        # Without the branch, rules that a request does not use would cost as much as the search.
        return tf.cond(
            self._reader.are_neutral(inputs, num_queries),
            best,
            rarely(lambda: self._best_under_rules(queries, inputs, width)),
        )

    @tf.autograph.experimental.do_not_convert
    def _best(self, queries: tf.Tensor, k: tf.Tensor, width: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, scores = self._index.search(queries, width)
        missing = [[0, 0], [0, width - tf.shape(rows)[1]]]
        num_candidates = self._index.num_candidates
        return self._answer(
            tf.pad(rows, missing), tf.pad(scores, missing), tf.minimum(k, num_candidates)
        )

    def _best_under_rules(
        self, queries: tf.Tensor, inputs: Tensors, width: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        request = self._reader.read(inputs, tf.shape(queries)[0])
        num_needed = count_needed(request)
        list_width = tf.maximum(_largest(num_needed), width)
        shortest = self._filter_lists.shortest(request, self._index.num_candidates)
        plan = plan_search(request, shortest, self._filter_lists.num_near_lists)
        pool, best_outside = self._pool(queries, request, plan)
        ranked = self._ranking.rank(request, pool, list_width, best_outside)
        enough = tf.minimum(
            num_needed, self._ranking.num_eligible_at_most(request, self._index.num_candidates)
        )
        is_short = ranked.num_sure < enough
        ranked = tf.cond(
            tf.reduce_any(is_short),
            rarely(lambda: self._completed(ranked, queries, request, is_short)),
            lambda: ranked,
        )
        rows, scores = tf.cond(
            tf.reduce_any(request.mmr_lambda < 1.0),
            rarely(lambda: rerank_mmr(self._index, request, ranked, num_needed, width)),
            lambda: (ranked.candidate_rows[:, :width], ranked.scores[:, :width]),
        )
        answer = self._answer(rows, scores, tf.minimum(request.k, ranked.count))
        return {**answer, POOL_SIZE: ranked.num_eligible}

    def score(self, inputs: Tensors) -> dict[str, tf.Tensor]:
        """Scores given candidates.

        Args:
            inputs: The query features, and `candidate_ids` `[batch, n]`, which may have one row
                for the whole batch.

        Returns:
            `scores` `[batch, n]` float32; the float32 minimum for unknown ids.
        """
        return self._score(self._query_tower(inputs), inputs["candidate_ids"])

    @tf.autograph.experimental.do_not_convert
    def _score(self, queries: tf.Tensor, candidate_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = self._ids.rows(candidate_ids)
        rows = for_each_query("candidate_ids", rows, tf.shape(queries)[0])
        scores = self._index.score(queries, tf.maximum(rows, 0))
        return {"scores": tf.where(rows != NO_ROW, scores, NO_SCORE)}

    def _pool(self, queries: tf.Tensor, request: Request, plan: Plan) -> tuple[Pool, tf.Tensor]:
        """The candidates to rank: those of a list where there is a short one, else what is found.

        Returns:
            The pool, and `[batch]` float32 what no candidate outside it scores above.
        """
        is_searched = plan.pool_size > 0
        num_found = tf.minimum(_largest(plan.pool_size), self._index.num_candidates)

        def eligible_of(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            is_there = rows != NO_MORE
            rows = tf.where(is_there, rows, 0)
            is_eligible = tf.cond(
                tf.reduce_all(plan.is_settled),
                lambda: is_there,
                rarely(lambda: is_there & self._eligibility.is_eligible(request, rows)),
            )
            return rows, is_eligible

        def found() -> tuple[Pool, tf.Tensor]:
            rows, scores = self._index.search(queries, num_found)
            is_whole = num_found == self._index.num_candidates
            outside = tf.where(is_whole, NO_SCORE, scores[:, -1])
            is_eligible = is_searched[:, tf.newaxis] & self._eligibility.is_eligible(request, rows)
            return Pool(rows, scores, is_eligible), outside

        def listed() -> Pool:
            place = tf.where(plan.is_listed, plan.place, NO_LIST)
            rows = self._filter_lists.listed_rows(request, place)
            rows, is_eligible = eligible_of(rows)
            return Pool(rows, self._index.score(queries, rows), is_eligible)

        def near() -> tuple[Pool, tf.Tensor]:
            num_wanted = SPARE * tf.cast(plan.num_near, tf.float32) / plan.share
            first, last = self._index.near(queries, num_wanted)
            rows = self._filter_lists.near_rows(request, plan, first, last)
            rows, is_eligible = eligible_of(rows)
            num_best = tf.minimum(_largest(plan.num_near), tf.shape(rows)[1])
            rows, is_eligible = self._index.best_of(queries, rows, is_eligible, num_best)
            # Of equal scores the lower row comes first.
            rows = tf.sort(tf.where(is_eligible, rows, NO_MORE), axis=1)
            is_eligible = rows != NO_MORE
            rows = tf.where(is_eligible, rows, 0)
            scores = self._index.score(queries, rows)
            # Where there are too few of them, those elsewhere may have any score.
            is_full = tf.math.count_nonzero(is_eligible, axis=1, dtype=tf.int32) >= plan.num_near
            worst = tf.reduce_min(tf.where(is_eligible, scores, tf.float32.max), axis=1)
            return Pool(rows, scores, is_eligible), tf.where(is_full, worst, tf.float32.max)

        of_search, outside = tf.cond(
            tf.reduce_any(is_searched),
            found,
            lambda: (_no_candidates(queries), tf.fill(tf.shape(is_searched), tf.float32.max)),
        )
        of_list = tf.cond(
            tf.reduce_any(plan.is_listed), rarely(listed), lambda: _no_candidates(queries)
        )
        outside = tf.where(is_searched, outside, tf.float32.max)
        pools = [of_search, of_list]
        if self._filter_lists.num_near_lists:
            of_leaves, outside_leaves = tf.cond(
                tf.reduce_any(plan.num_near > 0),
                rarely(near),
                lambda: (_no_candidates(queries), outside),
            )
            outside = tf.where(plan.num_near > 0, outside_leaves, outside)
            pools.append(of_leaves)
        outside = tf.where(plan.is_listed, NO_SCORE, outside)
        return _concat(*pools), outside

    def _completed(
        self, ranked: Ranked, queries: tf.Tensor, request: Request, is_short: tf.Tensor
    ) -> Ranked:
        """Ranks every eligible candidate for the queries whose pool was too small."""
        width = tf.shape(ranked.scores)[1]

        def of_query(place: tf.Tensor) -> tuple[tf.Tensor, ...]:
            one = tf.nest.map_structure(lambda values: tf.gather(values, [place]), request)
            rows = self._eligibility.eligible_rows(one, self._index.num_candidates)
            scores = self._index.score_many(queries[place], rows)
            pool = Pool(rows[tf.newaxis], scores[tf.newaxis], tf.ones_like([rows], tf.bool))
            best = self._ranking.rank(one, pool, width, tf.constant([NO_SCORE]))
            return best.candidate_rows[0], best.scores[0], best.count[0], best.num_eligible[0]

        short = tf.where(is_short)
        rows, scores, count, num_eligible = tf.map_fn(
            of_query,
            short[:, 0],
            parallel_iterations=1,
            fn_output_signature=(
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None], tf.float32),
                tf.TensorSpec([], tf.int32),
                tf.TensorSpec([], tf.int32),
            ),
        )
        return ranked._replace(
            candidate_rows=tf.tensor_scatter_nd_update(ranked.candidate_rows, short, rows),
            scores=tf.tensor_scatter_nd_update(ranked.scores, short, scores),
            count=tf.tensor_scatter_nd_update(ranked.count, short, count),
            num_eligible=tf.tensor_scatter_nd_update(ranked.num_eligible, short, num_eligible),
        )

    def _answer(
        self, rows: tf.Tensor, scores: tf.Tensor, valid_count: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        is_valid = tf.range(tf.shape(scores)[1]) < valid_count[:, tf.newaxis]
        return {
            "candidate_ids": tf.where(is_valid, self._ids.texts(rows), NO_ID),
            "scores": tf.where(is_valid, scores, NO_SCORE),
            "valid_count": valid_count,
        }


def finite_or_zero(embeddings: tf.Tensor) -> tf.Tensor:
    """Embeddings `[batch, embedding_dim]`, those that are not finite replaced by zero.

    A NaN would spoil every score of its query, and JSON cannot hold one.
    """
    is_finite = tf.reduce_all(tf.math.is_finite(embeddings), axis=1, keepdims=True)
    return tf.where(is_finite, embeddings, tf.zeros_like(embeddings))


def _largest(counts: tf.Tensor) -> tf.Tensor:
    """The largest of `[batch]` int32, at least 1; the batch may be empty."""
    return tf.reduce_max(tf.concat([counts, [1]], axis=0))


def _check_ids(ids: npt.NDArray[np.object_]) -> None:
    if b"" in ids[:1]:
        raise UserError("a candidate id is empty: give every candidate an id")
    is_repeated = ids[1:] == ids[:-1]
    if is_repeated.any():
        repeated = ids[1:][is_repeated][0].decode()
        raise UserError(f"candidate id {repeated!r} occurs twice: ids must be distinct")
    if (ids[1:] < ids[:-1]).any():
        raise ValueError(
            "`candidate_ids` must be sorted by their UTF-8 bytes: sort them, and the embeddings "
            "alike, before the index is built."
        )


def _no_candidates(queries: tf.Tensor) -> Pool:
    shape = [tf.shape(queries)[0], 0]
    return Pool(tf.zeros(shape, tf.int64), tf.zeros(shape), tf.zeros(shape, tf.bool))


def _concat(*pools: Pool) -> Pool:
    return Pool(*(tf.concat(parts, axis=1) for parts in zip(*pools, strict=True)))

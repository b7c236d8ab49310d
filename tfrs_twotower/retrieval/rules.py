"""The rules of a request: which candidates are eligible, and how time and variety reorder them.

They apply one after the other:

1. a candidate is eligible if it is not excluded, is on the allow-list (where there is one), has
   one of the wanted and none of the unwanted values of each filtered attribute, has each bounded
   number within its bounds, and is available at the moment of the request (where both are known);
2. with a half-life h, the score s of a candidate of age a becomes (1 + s) * 2 ** (-a / h) - 1: its
   distance to the lowest cosine halves every h seconds;
3. candidates below the minimum score are dropped;
4. the rest are ordered by score, equal ones by id;
5. of each category only the first `max_per_category` stay; candidates without one all stay;
6. with `mmr_lambda` below 1, maximal marginal relevance (Carbonell & Goldstein 1998) chooses among
   the first 10 k of them (at most 1,000, at least k): again and again the one with the largest
   lambda * score - (1 - lambda) * (largest cosine with a candidate already chosen).

This module reads a request and ranks pools of scored candidates; `retrieval.retriever` finds the
pools.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.control_flow import in_chunks, rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes, FilterAttribute, is_among
from tfrs_twotower.retrieval.ranges import HIGHEST, LOWEST, Range, RangeAttribute
from tfrs_twotower.retrieval.string_table import NO_ROW, StringTable

# Stands where there is no score; REST cannot print an infinity.
NO_SCORE = tf.float32.min
NO_ID = ""

# Among how many candidates, for each one wanted and at most, relevance is weighed against variety.
MMR_POOL, LARGEST_MMR_POOL = 10, 1000

# How many times more candidates are looked at where a rule will reorder them or cap categories.
OVERFETCH = 4

# A pool beyond this many candidates costs more than scoring the eligible ones.
LARGEST_POOL = 4096

# A list of one row stands for every query: without a bound on what that makes, a request of two
# hundred bytes takes all memory.
MAX_CELLS = 2**22


class Filter(NamedTuple):
    """What a request wants of one attribute."""

    any_of: tf.Tensor  # [batch, n] int64 value rows; -1: nothing, or an unknown value.
    none_of: tf.Tensor  # [batch, m]
    is_restricted: tf.Tensor  # [batch] bool: `any_of` names a value, if only an unknown one.


class Request(NamedTuple):
    """The rules of each query of a batch, read and checked."""

    k: tf.Tensor  # [batch] int32
    excluded: tf.Tensor  # [batch, n] int64 candidate rows; -1: none.
    allowed: tf.Tensor  # [batch, m]
    has_allow_list: tf.Tensor  # [batch] bool
    filters: Mapping[str, Filter]  # By attribute.
    ranges: tuple[Range, ...]  # Those of numbers, then of availability.
    half_life_s: tf.Tensor  # [batch] float32; 0: time does not matter.
    now_s: tf.Tensor  # [batch] int64; 0: not known.
    max_per_category: tf.Tensor  # [batch] int32; 0: no limit.
    mmr_lambda: tf.Tensor  # [batch] float32, 0 to 1; 1: relevance alone.
    min_score: tf.Tensor  # [batch] float32


class Pool(NamedTuple):
    """Candidates among which an answer is chosen; the eligible ones of a query are distinct."""

    candidate_rows: tf.Tensor  # [batch, n] int64, within the corpus.
    scores: tf.Tensor  # [batch, n] float32; where equal, the lower row comes first.
    is_eligible: tf.Tensor  # [batch, n] bool


class Ranked(NamedTuple):
    """The best of a pool by rules 2 to 5; rule 6 is yet to come."""

    candidate_rows: tf.Tensor  # [batch, width] int64
    scores: tf.Tensor  # [batch, width] float32
    count: tf.Tensor  # [batch] int32: how many of the pool are left; the rest is padding.
    # [batch] int32: how many of them no candidate outside the pool can overtake.
    num_sure: tf.Tensor
    num_eligible: tf.Tensor  # [batch] int32: how many of the pool pass rule 1.


class Rules(tf.Module):
    """The rules that a corpus allows."""

    def __init__(
        self, candidate_ids: StringTable, attributes: CandidateAttributes | None, *, max_k: int
    ) -> None:
        """Joins the parts.

        Args:
            candidate_ids: The corpus.
            attributes: Of the corpus; None: there are none to filter or order by.
            max_k: The largest `k` a request may ask.
        """
        super().__init__()
        self._ids = candidate_ids
        self._attributes = attributes
        self._filters = attributes.filters if attributes else {}
        self._numbers = attributes.ranges if attributes else {}
        self._available_from = attributes.available_from if attributes else None
        self._available_until = attributes.available_until if attributes else None
        availability = (self._available_from, self._available_until)
        self._has_availability = any(known is not None for known in availability)
        self._timestamps_s = attributes.timestamps_s if attributes else None
        self._categories = attributes.categories if attributes else None
        self._max_k = max_k

    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The inputs that carry rules, by name; all of them optional."""
        lists = ["exclude_ids", "allow_ids"]
        lists += [f"filter_{name}_{kind}" for name in self._filters for kind in ("any", "none")]
        scalars = {"k": tf.int32, "mmr_lambda": tf.float32, "min_score": tf.float32}
        if self._timestamps_s is not None:
            scalars |= {"half_life_s": tf.float32}
        if self._timestamps_s is not None or self._has_availability:
            scalars |= {"now_s": tf.int64}
        # Wide enough for Unix seconds.
        bounds = [f"filter_{name}_{kind}" for name in self._numbers for kind in ("min", "max")]
        scalars |= dict.fromkeys(bounds, tf.float64)
        if self._categories is not None:
            scalars |= {"max_per_category": tf.int32}
        return {
            **{name: tf.TensorSpec([None, None], tf.string, name) for name in lists},
            **{name: tf.TensorSpec([None], dtype, name) for name, dtype in scalars.items()},
        }

    def defaults(self, default_k: int) -> dict[str, tf.Tensor]:
        """The value of each input that means "no rule"; one row."""
        neutral: dict[str, Any] = {"k": default_k, "mmr_lambda": 1.0, "min_score": NO_SCORE}
        for name in self._numbers:
            neutral |= {f"filter_{name}_min": LOWEST, f"filter_{name}_max": HIGHEST}
        return {
            name: tf.constant([[NO_ID]])
            if spec.shape.rank == 2
            else tf.constant([neutral.get(name, 0)], spec.dtype)
            for name, spec in self.inputs().items()
        }

    def read_k(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> tf.Tensor:
        """How many candidates each query asks for, `[num_queries]` int32; checked as by `read`."""
        return _Reader(inputs, num_queries).checked(
            "k",
            lambda k: (k >= 1) & (k <= self._max_k),
            f"between 1 and {self._max_k} (`export.max_k` of the config)",
        )

    def are_neutral(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> tf.Tensor:
        """Whether a request asks for its best `k` candidates and nothing else.

        Args:
            inputs: See `read`.
            num_queries: See `read`.

        Returns:
            bool scalar; false also where `read` would fail for another reason than `k`.
        """
        neutral = self.defaults(default_k=1)
        # A moment alone rules nothing out where candidates are always available.
        no_rules = ("k",) if self._has_availability else ("k", "now_s")
        of_rules = [name for name in neutral if name not in no_rules]
        num_rows = tf.stack([tf.shape(inputs[name])[0] for name in neutral if name != "k"])
        fits = (num_rows == 1) | (num_rows == num_queries)
        is_off = [tf.reduce_all(inputs[name] == neutral[name]) for name in of_rules]
        return tf.reduce_all(tf.concat([fits, tf.stack(is_off)], axis=0))

    def read(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> Request:
        """Checks the rules of a request and repeats those that came once for all queries.

        Args:
            inputs: At least those of `inputs`.
            num_queries: int32 scalar, the batch.

        Raises:
            tf.errors.InvalidArgumentError: When run, if a value is out of range or has neither one
                row nor one a query.
        """
        read = _Reader(inputs, num_queries)
        allowed, has_allow_list = read.rows("allow_ids", self._ids)
        half_life_s, now_s = self._read_times(read)
        return Request(
            k=self.read_k(inputs, num_queries),
            excluded=read.rows("exclude_ids", self._ids)[0],
            allowed=allowed,
            has_allow_list=has_allow_list,
            filters={
                name: _read_filter(read, name, attribute)
                for name, attribute in self._filters.items()
            },
            ranges=self._read_ranges(read, now_s),
            half_life_s=half_life_s,
            now_s=now_s,
            max_per_category=read.constant(0, tf.int32)
            if self._categories is None
            else read.checked("max_per_category", lambda most: most >= 0, "0 (off) or more"),
            mmr_lambda=read.checked(
                "mmr_lambda", lambda weight: (weight >= 0) & (weight <= 1), "between 0 and 1"
            ),
            min_score=read.checked("min_score", lambda least: ~tf.math.is_nan(least), "a number"),
        )

    def _read_times(self, read: "_Reader") -> tuple[tf.Tensor, tf.Tensor]:
        """`half_life_s` and `now_s` of a request; zeros where the corpus has no times."""
        if "now_s" not in self.inputs():
            return read.constant(0, tf.float32), read.constant(0, tf.int64)
        if self._timestamps_s is None:
            return read.constant(0, tf.float32), read.each("now_s")
        half_life_s = read.checked(
            "half_life_s", lambda s: (s >= 0) & tf.math.is_finite(s), "0 (off) or seconds"
        )
        now_s = read.each("now_s")
        is_timed = (half_life_s == 0) | (now_s > 0)
        message = "`now_s` (Unix seconds) must be given with `half_life_s`"
        with tf.control_dependencies([assert_all(is_timed, [message])]):
            return half_life_s, tf.identity(now_s)

    def _read_ranges(self, read: "_Reader", now_s: tf.Tensor) -> tuple[Range, ...]:
        """The bounds of numbers, and those that the moment of the request sets."""
        ranges = []
        for name, attribute in self._numbers.items():
            bounds = (
                read.checked(f"filter_{name}_{kind}", lambda x: ~tf.math.is_nan(x), "a number")
                for kind in ("min", "max")
            )
            ranges.append(attribute.range(*bounds))
        now = tf.cast(now_s, tf.float64)
        lowest, highest = tf.fill(tf.shape(now), LOWEST), tf.fill(tf.shape(now), HIGHEST)
        if self._available_from is not None:
            most = tf.where(now_s > 0, now, highest)
            ranges.append(self._available_from.range(lowest, most))
        if self._available_until is not None:
            least = tf.where(now_s > 0, now, lowest)
            ranges.append(self._available_until.range(least, highest))
        return tuple(ranges)

    def _bounded(self, request: Request) -> Iterator[tuple[RangeAttribute, Range]]:
        """The numbers that a request may bound, with their bounds."""
        availability = (self._available_from, self._available_until)
        attributes = [*self._numbers.values(), *(x for x in availability if x is not None)]
        return zip(attributes, request.ranges, strict=True)

    def num_needed(self, request: Request) -> tf.Tensor:
        """How many ranked candidates the answer to each query is chosen from, `[batch]` int32."""
        for_variety = tf.maximum(tf.minimum(MMR_POOL * request.k, LARGEST_MMR_POOL), request.k)
        return tf.where(request.mmr_lambda < 1.0, for_variety, request.k)

    def pool_size(self, request: Request) -> tf.Tensor:
        """How many of the best candidates probably hold the answer to each query.

        Args:
            request: See `read`.

        Returns:
            `[batch]` int32; 0 where so few are eligible that scoring them all is cheaper.
        """
        num_excluded = tf.math.count_nonzero(request.excluded != NO_ROW, axis=1, dtype=tf.int32)
        least = self.num_needed(request) + num_excluded
        share = tf.ones_like(request.min_score)
        for name, wanted in request.filters.items():
            attribute = self._filters[name]
            with_any = attribute.share(wanted.any_of)
            share *= tf.where(wanted.is_restricted, with_any, 1.0)
            share *= 1.0 - attribute.share(wanted.none_of)
        for numbers, bounds in self._bounded(request):
            share *= numbers.share(bounds)
        reorders = (request.half_life_s > 0) | (request.max_per_category > 0)
        factor = tf.where(reorders, float(OVERFETCH), 1.0)
        factor *= tf.where(share < 1.0, 1.5 / tf.maximum(share, 1e-9), 1.0)
        size = factor * tf.cast(least, tf.float32)
        is_too_large = (factor > 1.0) & (size > float(LARGEST_POOL))
        return tf.where(is_too_large, 0, tf.cast(tf.math.ceil(tf.minimum(size, 2.0**30)), tf.int32))

    def eligible_rows(self, request: Request, corpus_size: int) -> tf.Tensor:
        """Every candidate that passes exclusions and filters.

        They are sought among those that pass the filter or the bounds that fewest pass; without
        any, in the whole corpus.

        Args:
            request: Of one query.
            corpus_size: How many candidates there are.

        Returns:
            `[n]` int64, ascending.
        """
        searched: list[Callable[[], tf.Tensor]] = [lambda: tf.range(corpus_size, dtype=tf.int64)]
        sizes = [tf.constant(corpus_size)]
        for name, wanted in request.filters.items():
            attribute = self._filters[name]
            searched.append(functools.partial(attribute.owners, wanted.any_of[0]))
            num_owners = attribute.num_owners(wanted.any_of)[0]
            sizes.append(tf.where(wanted.is_restricted[0], num_owners, tf.int32.max))
        for numbers, bounds in self._bounded(request):
            searched.append(functools.partial(numbers.rows_within, bounds))
            sizes.append(numbers.num_within(bounds)[0])
        rows = tf.switch_case(tf.argmin(tf.stack(sizes), output_type=tf.int32), searched)
        return tf.boolean_mask(rows, self.is_eligible(request, rows[tf.newaxis])[0])

    def is_eligible(self, request: Request, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Which candidates pass exclusions and filters.

        Args:
            request: Of `batch` queries.
            candidate_rows: `[batch, n]` int64.

        Returns:
            `[batch, n]` bool.
        """
        is_filtered = tf.constant(False)
        for wanted in request.filters.values():
            is_filtered |= tf.reduce_any(wanted.is_restricted)
            is_filtered |= tf.reduce_any(wanted.none_of != NO_ROW)
        for bounds in request.ranges:
            is_filtered |= tf.reduce_any(bounds.is_restricted)
        passes = tf.cond(
            is_filtered,
            rarely(lambda: self._passes_filters(request, candidate_rows)),
            lambda: tf.ones_like(candidate_rows, tf.bool),
        )
        return passes & ~is_among(candidate_rows, request.excluded)

    def _passes_filters(self, request: Request, candidate_rows: tf.Tensor) -> tf.Tensor:
        passes = tf.ones_like(candidate_rows, tf.bool)
        for name, wanted in request.filters.items():
            attribute = self._filters[name]
            has_any = attribute.has_one_of(candidate_rows, wanted.any_of)
            passes &= has_any | ~wanted.is_restricted[:, tf.newaxis]
            passes &= ~attribute.has_one_of(candidate_rows, wanted.none_of)
        for numbers, bounds in self._bounded(request):
            passes &= numbers.is_within(candidate_rows, bounds)
        return passes

    def rank(
        self, request: Request, pool: Pool, width: tf.Tensor, best_outside: tf.Tensor
    ) -> Ranked:
        """Ranks a pool by rules 2 to 5.

        Args:
            request: Of `batch` queries.
            pool: Of the same.
            width: int32 scalar, how many to return.
            best_outside: `[batch]` float32, what no candidate outside the pool scores above;
                `NO_SCORE` where the pool holds all there are.

        Returns:
            The first `width`.
        """
        num_eligible = tf.math.count_nonzero(pool.is_eligible, axis=1, dtype=tf.int32)
        pool, best_outside = self._apply_time_decay(request, pool, best_outside)
        is_in = pool.is_eligible & (pool.scores >= request.min_score[:, tf.newaxis])
        pool = pool._replace(is_eligible=is_in)
        pool = self._cap_per_category(request, pool)
        rows, scores = by_score(pool, width)
        count = tf.math.count_nonzero(pool.is_eligible, axis=1, dtype=tf.int32)
        is_sure = pool.is_eligible & (pool.scores > best_outside[:, tf.newaxis])
        # Of equal scores those of the pool come first, unless time has changed them.
        is_sure = tf.where(request.half_life_s[:, tf.newaxis] > 0, is_sure, pool.is_eligible)
        num_sure = tf.math.count_nonzero(is_sure, axis=1, dtype=tf.int32)
        # No candidate outside can be eligible: what was found is all there is.
        is_over = best_outside < tf.maximum(request.min_score, NO_SCORE / 2)
        num_sure = tf.where(is_over, tf.int32.max, num_sure)
        return Ranked(rows, scores, count, num_sure, num_eligible)

    def num_eligible_at_most(self, request: Request, corpus_size: int) -> tf.Tensor:
        """How many candidates `max_per_category` lets through at most, `[batch]` int32."""
        attributes = self._attributes
        if attributes is None or self._categories is None:
            return tf.fill(tf.shape(request.k), corpus_size)
        most = request.max_per_category
        sizes = tf.minimum(attributes.category_sizes, most[:, tf.newaxis])
        limited = attributes.num_uncategorised + tf.reduce_sum(sizes, axis=1)
        return tf.where(most > 0, limited, corpus_size)

    def _apply_time_decay(
        self, request: Request, pool: Pool, best_outside: tf.Tensor
    ) -> tuple[Pool, tf.Tensor]:
        """Rule 2, of the pool and of the bound on the candidates outside it.

        None of those outside is newer than the newest candidate of the corpus.
        """
        timestamps_s = self._timestamps_s
        if timestamps_s is None or self._attributes is None:
            return pool, best_outside
        newest_s = tf.constant(self._attributes.newest_s, tf.int64)
        half_life_s, now_s = request.half_life_s, request.now_s

        def decayed(
            scores: tf.Tensor, born_s: tf.Tensor, half: tf.Tensor, now: tf.Tensor
        ) -> tf.Tensor:
            age_s = tf.cast(tf.maximum(now - born_s, 0), tf.float32)
            # Rounding may leave a cosine a little below -1.
            old = tf.maximum(1.0 + scores, 0.0) * tf.pow(2.0, -age_s / half) - 1.0
            return tf.where(half > 0, old, scores)

        def reordered() -> tuple[Pool, tf.Tensor]:
            # Scores that were different may now be equal.
            order = tf.argsort(pool.candidate_rows, axis=1, stable=True)
            rows, scores, is_eligible = (tf.gather(x, order, batch_dims=1) for x in pool)
            born_s = tf.gather(tf.convert_to_tensor(timestamps_s), rows)
            scores = decayed(scores, born_s, half_life_s[:, tf.newaxis], now_s[:, tf.newaxis])
            outside = decayed(tf.maximum(best_outside, -1.0), newest_s, half_life_s, now_s)
            outside = tf.where(best_outside > NO_SCORE / 2, outside, NO_SCORE)
            return Pool(rows, scores, is_eligible), outside

        return tf.cond(
            tf.reduce_any(half_life_s > 0),
            rarely(reordered),
            lambda: (pool, tf.identity(best_outside)),
        )

    def _cap_per_category(self, request: Request, pool: Pool) -> Pool:
        """Rule 5."""
        categories = self._categories
        if categories is None:
            return pool
        most = request.max_per_category[:, tf.newaxis]

        def capped() -> Pool:
            width = tf.shape(pool.scores)[1]
            rows, scores = by_score(pool, width)
            place = tf.range(width, dtype=tf.int64)
            num_eligible = tf.math.count_nonzero(pool.is_eligible, axis=1)[:, tf.newaxis]
            is_eligible = place < num_eligible
            category = tf.gather(tf.convert_to_tensor(categories), rows)
            has_category = is_eligible & (category != NO_ROW)
            num_before = _num_before(tf.where(has_category, category, NO_ROW))
            stays = (num_before < most) | ~has_category | (most == 0)
            return Pool(rows, scores, is_eligible & stays)

        return tf.cond(tf.reduce_any(most > 0), rarely(capped), lambda: pool)


def rerank_mmr(
    index: CandidateIndex, request: Request, ranked: Ranked, num_needed: tf.Tensor, width: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rule 6.

    Args:
        index: The embeddings of the corpus.
        request: Of `batch` queries.
        ranked: At least `num_needed` of the ranked candidates, where there are as many.
        num_needed: See `Rules.num_needed`.
        width: int32 scalar, the largest k.

    Returns:
        Rows `[batch, width]` int64 and scores in the order of the answer.
    """
    pool_width = tf.shape(ranked.scores)[1]
    is_in = tf.range(pool_width) < tf.minimum(ranked.count, num_needed)[:, tf.newaxis]
    embeddings = tf.convert_to_tensor(index.embeddings)

    def choose(
        rows: tf.Tensor, scores: tf.Tensor, is_in: tf.Tensor, weight: tf.Tensor
    ) -> tf.Tensor:
        vectors = tf.gather(embeddings, rows)
        relevance = weight * scores
        places = tf.TensorArray(tf.int32, width)

        def step(
            number: tf.Tensor, places: tf.TensorArray, is_left: tf.Tensor, nearest: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            value = tf.where(is_left, relevance - (1.0 - weight) * nearest, NO_SCORE)
            place = tf.argmax(value, axis=1, output_type=tf.int32)
            chosen = tf.gather(vectors, place, batch_dims=1)
            cosines = tf.linalg.matvec(vectors, chosen)
            # Before the first choice, no candidate was near a chosen one.
            nearest = tf.where(number == 0, cosines, tf.maximum(nearest, cosines))
            is_left &= tf.range(pool_width) != place[:, tf.newaxis]
            return number + 1, places.write(number, place), is_left, nearest

        _, places, _, _ = tf.while_loop(
            lambda number, *_: number < width,
            step,
            (0, places, is_in, tf.zeros_like(scores)),
            parallel_iterations=1,
        )
        return tf.transpose(tf.ensure_shape(places.stack(), [None, None]))

    order = in_chunks(
        choose,
        (ranked.candidate_rows, ranked.scores, is_in, request.mmr_lambda[:, tf.newaxis]),
        index.vectors_at_once // tf.maximum(pool_width, 1),
        tf.TensorSpec([None, None], tf.int32),
    )
    rows = tf.gather(ranked.candidate_rows, order, batch_dims=1)
    return rows, tf.gather(ranked.scores, order, batch_dims=1)


def by_score(pool: Pool, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows and scores of the eligible candidates, best first, padded to `width` columns."""
    scores = tf.where(pool.is_eligible, pool.scores, NO_SCORE)
    missing = tf.maximum(width - tf.shape(scores)[1], 0)
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NO_SCORE)
    rows = tf.pad(pool.candidate_rows, [[0, 0], [0, missing]])
    # Of equal scores top_k takes the first, which is the lower row.
    scores, order = tf.math.top_k(scores, width)
    return tf.gather(rows, order, batch_dims=1), scores


def for_each_query(name: str, values: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Repeats an input that came as one row for all queries of the batch.

    Raises:
        tf.errors.InvalidArgumentError: When run, if it has neither one row nor one a query, or a
            list makes more than `MAX_CELLS` cells.
    """
    num_rows = tf.shape(values)[0]
    fits = (num_rows == 1) | (num_rows == num_queries)
    message = [f"`{name}` must have one row or one a query, got", num_rows, "for", num_queries]
    checks = [assert_all(fits, message)]
    shape = tf.concat([[num_queries], tf.shape(values)[1:]], axis=0)
    if values.shape.rank == 2:
        num_cells = tf.reduce_prod(tf.cast(shape, tf.int64))
        too_large = [f"`{name}` makes more than {MAX_CELLS} cells: ask fewer queries at once, got"]
        checks.append(assert_all(num_cells <= MAX_CELLS, [*too_large, shape]))
    with tf.control_dependencies(checks):
        return tf.broadcast_to(values, tf.identity(shape))


def assert_all(conditions: tf.Tensor, message: list[Any]) -> tf.Operation:
    """Fails with a message unless all conditions hold; one node, unlike `tf.debugging.Assert`."""
    data = [tf.convert_to_tensor(part) for part in message]
    return tf.raw_ops.Assert(condition=tf.reduce_all(conditions), data=data)


class _Reader(NamedTuple):
    """Reads the inputs of a request, one row a query."""

    inputs: Mapping[str, tf.Tensor]
    num_queries: tf.Tensor  # int32 scalar

    def each(self, name: str) -> tf.Tensor:
        """An input."""
        return for_each_query(name, self.inputs[name], self.num_queries)

    def checked(
        self, name: str, is_legal: Callable[[tf.Tensor], tf.Tensor], expected: str
    ) -> tf.Tensor:
        """An input whose values must be legal, or the request fails when it is run."""
        values = self.inputs[name]
        message = [f"`{name}` must be {expected}, got", values]
        with tf.control_dependencies([assert_all(is_legal(values), message)]):
            return for_each_query(name, tf.identity(values), self.num_queries)

    def rows(self, name: str, table: StringTable | FilterAttribute) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows of a list of texts, `[batch, n]`, and whether it names any, `[batch]` bool."""
        texts = self.inputs[name]
        names_any = tf.reduce_any(texts != NO_ID, axis=1)
        return (
            for_each_query(name, table.rows(texts), self.num_queries),
            for_each_query(name, names_any, self.num_queries),
        )

    def constant(self, value: int, dtype: tf.DType) -> tf.Tensor:
        """The same value for every query."""
        return tf.fill([self.num_queries], tf.constant(value, dtype))


def _read_filter(read: _Reader, name: str, attribute: FilterAttribute) -> Filter:
    any_of, is_restricted = read.rows(f"filter_{name}_any", attribute)
    none_of, _ = read.rows(f"filter_{name}_none", attribute)
    return Filter(any_of, none_of, is_restricted)


def _num_before(labels: tf.Tensor) -> tf.Tensor:
    """How often each label, `[batch, n]` int32, occurs before its place in its row."""
    order = tf.argsort(labels, axis=1, stable=True)
    ordered = tf.gather(labels, order, batch_dims=1)
    first = tf.raw_ops.LowerBound(sorted_inputs=ordered, values=ordered)
    in_order = tf.range(tf.shape(labels)[1]) - first
    back = tf.argsort(order, axis=1)
    return tf.gather(in_order, back, batch_dims=1)

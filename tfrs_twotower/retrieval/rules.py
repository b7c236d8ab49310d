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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.control_flow import in_chunks, rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes, FilterAttribute, is_among
from tfrs_twotower.retrieval.lists import NO_MORE, Listed, distinct
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
# A pool beyond this many candidates costs more than scoring the eligible ones in near leaves.
LARGEST_POOL_BESIDE_LEAVES = 500
# How many times more candidates are sought than the share of those that pass a filter asks for.
SPARE = 1.5
# A sum of shares may claim that nothing is left.
SMALLEST_SHARE = 1e-9
# In place of a filter's number.
NO_LIST = -1

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


class ShortestList(NamedTuple):
    """What the filters and bounds of each query of a batch leave, and which leaves fewest."""

    share: tf.Tensor  # [batch] float32: about which share of the corpus passes them all.
    place: tf.Tensor  # [batch] int32: the number of that filter, then of bounds; or `NO_LIST`.
    size: tf.Tensor  # [batch] int32: how many candidates it leaves, at least.
    is_only: tf.Tensor  # [batch] bool: there is no other filter and no other bound.


class Plan(NamedTuple):
    """Where the candidates of each answer of a batch are sought."""

    pool_size: tf.Tensor  # [batch] int32: so many of the best probably hold it; 0: not there.
    # [batch] int32: so many of the best in the list of `place` and in near leaves; 0: not there.
    num_near: tf.Tensor
    share: tf.Tensor  # [batch] float32, above 0: see `ShortestList`.
    is_listed: tf.Tensor  # [batch] bool: in the list of `place`, or in the allow-list.
    place: tf.Tensor  # [batch] int32: see `ShortestList`.
    is_settled: tf.Tensor  # [batch] bool: all of the list are eligible.


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
        self,
        candidate_ids: StringTable,
        attributes: CandidateAttributes | None,
        leaves: CandidateLeaves | None,
        *,
        max_k: int,
    ) -> None:
        """Joins the parts.

        Args:
            candidate_ids: The corpus.
            attributes: Of the corpus; None: there are none to filter or order by.
            leaves: Of the index of the corpus; None: there are none.
            max_k: The largest `k` a request may ask.
        """
        super().__init__()
        self._ids = candidate_ids
        self._attributes = attributes
        self._filters = attributes.filters if attributes else {}
        self._near = (
            []
            if leaves is None
            else [attribute.near(leaves) for attribute in self._filters.values()]
        )
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

    def are_neutral(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> tf.Tensor:
        """Whether a request asks for its best `k` candidates and nothing else.

        Args:
            inputs: See `read`.
            num_queries: See `read`.

        Returns:
            bool scalar; false also where `read` would fail.
        """
        neutral = self.defaults(default_k=1)
        # A moment alone rules nothing out where candidates are always available.
        no_rules = ("k",) if self._has_availability else ("k", "now_s")
        scalars = [name for name in neutral if inputs[name].shape.rank == 1]
        is_off = [inputs[name] == neutral[name] for name in scalars if name not in no_rules]
        flat = tf.constant([-1])
        lists = [tf.reshape(inputs[name], flat) for name in neutral if name not in scalars]
        fits = _fits(_num_rows({name: inputs[name] for name in neutral}), num_queries)
        is_neutral = [fits, *is_off, tf.concat(lists, axis=0) == NO_ID, self._is_k(inputs["k"])]
        return tf.reduce_all(tf.concat(is_neutral, axis=0))

    def _is_k(self, k: tf.Tensor) -> tf.Tensor:
        return (k >= 1) & (k <= self._max_k)

    def read(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> Request:
        """Checks the rules of a request and repeats those that came once for all queries.

        Args:
            inputs: At least those of `inputs`.
            num_queries: int32 scalar, the batch.

        Raises:
            tf.errors.InvalidArgumentError: When run, if a value is out of range or has neither one
                row nor one a query.
        """
        of_rules = {name: inputs[name] for name in self.inputs()}
        read = _Reader(of_rules, checked(of_rules, num_queries, self._legal(of_rules)))
        allowed, has_allow_list = read.rows("allow_ids", self._ids)
        half_life_s, now_s = self._read_times(read)
        return Request(
            k=read.scalar("k", tf.int32),
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
            max_per_category=read.scalar("max_per_category", tf.int32),
            mmr_lambda=read.scalar("mmr_lambda", tf.float32),
            min_score=read.scalar("min_score", tf.float32),
        )

    def _read_times(self, read: "_Reader") -> tuple[tf.Tensor, tf.Tensor]:
        """`half_life_s` and `now_s` of a request; zeros where the corpus has no times."""
        half_life_s, now_s = read.scalar("half_life_s", tf.float32), read.scalar("now_s", tf.int64)
        if self._timestamps_s is None:
            return half_life_s, now_s
        is_timed = (half_life_s == 0) | (now_s > 0)
        message = "`now_s` (Unix seconds) must be given with `half_life_s`"
        with tf.control_dependencies([assert_all(is_timed, [message])]):
            return half_life_s, tf.identity(now_s)

    def _legal(self, inputs: Mapping[str, tf.Tensor]) -> Iterator["Legal"]:
        """What must hold of the values of a request."""
        most = f"between 1 and {self._max_k} (`export.max_k` of the config)"
        yield Legal("k", self._is_k(inputs["k"]), most)
        weight, least = inputs["mmr_lambda"], inputs["min_score"]
        yield Legal("mmr_lambda", (weight >= 0) & (weight <= 1), "between 0 and 1")
        yield Legal("min_score", ~tf.math.is_nan(least), "a number")
        if self._categories is not None:
            places = inputs["max_per_category"]
            yield Legal("max_per_category", places >= 0, "0 (off) or more")
        if self._timestamps_s is not None:
            half_life_s = inputs["half_life_s"]
            is_time = (half_life_s >= 0) & tf.math.is_finite(half_life_s)
            yield Legal("half_life_s", is_time, "0 (off) or seconds")
        for name in self._numbers:
            for kind in ("min", "max"):
                bound = f"filter_{name}_{kind}"
                yield Legal(bound, ~tf.math.is_nan(inputs[bound]), "a number")

    def _read_ranges(self, read: "_Reader", now_s: tf.Tensor) -> tuple[Range, ...]:
        """The bounds of numbers, and those that the moment of the request sets."""
        ranges = []
        for name, attribute in self._numbers.items():
            bounds = (read.scalar(f"filter_{name}_{kind}", tf.float64) for kind in ("min", "max"))
            ranges.append(attribute.range(*bounds))
        if not self._has_availability:
            return tuple(ranges)
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

    @property
    def has_near(self) -> bool:
        """Whether filters may be searched in near leaves."""
        return bool(self._near)

    def plan(self, request: Request, corpus_size: int) -> Plan:
        """Where the candidates of each answer are sought.

        Args:
            request: See `read`.
            corpus_size: How many candidates there are.
        """
        num_excluded = tf.math.count_nonzero(request.excluded != NO_ROW, axis=1, dtype=tf.int32)
        least = self.num_needed(request) + num_excluded
        lists = self._shortest_list(request, corpus_size)
        reorders = (request.half_life_s > 0) | (request.max_per_category > 0)
        factor = tf.where(reorders, float(OVERFETCH), 1.0)
        factor *= tf.where(lists.share < 1.0, SPARE / tf.maximum(lists.share, SMALLEST_SHARE), 1.0)
        size = factor * tf.cast(least, tf.float32)
        size = tf.cast(tf.math.ceil(tf.minimum(size, 2.0**30)), tf.int32)
        is_too_large = (factor > 1.0) & (size > LARGEST_POOL)
        # An allow-list holds them all.
        has_list = (lists.place != NO_LIST) & ~request.has_allow_list
        is_wide = (size > LARGEST_POOL_BESIDE_LEAVES) if self._near else is_too_large
        is_near = has_list & (lists.place < len(self._near)) & is_wide
        is_near &= lists.size > LARGEST_POOL
        most = MAX_CELLS // tf.maximum(tf.shape(size)[0], 1)
        is_few = has_list & ~is_near & (lists.size <= most)
        longest = tf.where(is_wide, tf.maximum(size, LARGEST_POOL), size)
        is_few &= is_too_large | (lists.size <= longest)
        is_listed = is_few | request.has_allow_list
        return Plan(
            pool_size=tf.where(is_too_large | is_listed | is_near, 0, size),
            num_near=tf.where(is_near, least * tf.where(reorders, OVERFETCH, 1), 0),
            share=tf.maximum(lists.share, SMALLEST_SHARE),
            is_listed=is_listed,
            place=tf.where(has_list, lists.place, NO_LIST),
            is_settled=(is_few | is_near) & lists.is_only & (num_excluded == 0),
        )

    def _shortest_list(self, request: Request, corpus_size: int) -> ShortestList:
        num_queries = tf.shape(request.k)

        def whole() -> ShortestList:
            return ShortestList(
                share=tf.ones(num_queries),
                place=tf.fill(num_queries, NO_LIST),
                size=tf.fill(num_queries, corpus_size),
                is_only=tf.zeros(num_queries, tf.bool),
            )

        def shortest() -> ShortestList:
            share, sizes = tf.ones(num_queries), []
            num_rules = tf.zeros(num_queries, tf.int32)
            for listed, is_restricted in self._lists(request):
                share *= tf.where(is_restricted, listed.share, 1.0)
                sizes.append(tf.where(is_restricted, listed.size, tf.int32.max))
                num_rules += tf.cast(is_restricted, tf.int32)
            for name, wanted in request.filters.items():
                share *= 1.0 - self._filters[name].listed(wanted.none_of).share
                is_without = tf.reduce_any(wanted.none_of != NO_ROW, axis=1)
                num_rules += tf.cast(is_without, tf.int32)
            place = tf.argmin(tf.stack(sizes), axis=0, output_type=tf.int32)
            size = tf.reduce_min(tf.stack(sizes), axis=0)
            is_any = size < tf.int32.max
            return ShortestList(
                share=share,
                place=tf.where(is_any, place, NO_LIST),
                size=size,
                is_only=num_rules == 1,
            )

        if not self._filters and not request.ranges:
            return whole()
        return tf.cond(_is_filtered(request), rarely(shortest), whole)

    def _lists(self, request: Request) -> Iterator[tuple[Listed, tf.Tensor]]:
        """What each filter and each pair of bounds leaves, and to which queries they apply."""
        for name, wanted in request.filters.items():
            yield self._filters[name].listed(wanted.any_of), wanted.is_restricted
        for numbers, bounds in self._bounded(request):
            yield numbers.listed(bounds), bounds.is_restricted

    def listed_rows(self, request: Request, place: tf.Tensor) -> tf.Tensor:
        """Lists that hold every eligible candidate.

        Args:
            request: Of `batch` queries.
            place: See `Plan`.

        Returns:
            `[batch, n]` int64 candidate rows, ascending and distinct but for `NO_MORE`, which may
            stand anywhere: of the allow-list, and of the filter at `place`.
        """
        lists = []
        for number, (listed, _) in enumerate(self._lists(request)):
            is_wanted = place == number
            lists.append(
                tf.cond(
                    tf.reduce_any(is_wanted),
                    rarely(functools.partial(listed.rows, is_wanted)),
                    lambda: tf.zeros([tf.size(place), 0], tf.int64),
                )
            )
        # Where there is no allow-list, it holds nothing.
        nothing = tf.constant(NO_MORE, tf.int64)
        lists.append(tf.where(request.allowed == NO_ROW, nothing, request.allowed))
        return distinct(tf.concat(lists, axis=1))

    def near_rows(
        self, request: Request, plan: Plan, first: tf.Tensor, last: tf.Tensor
    ) -> tf.Tensor:
        """The candidates of a filter that lie in some leaves.

        Args:
            request: Of `batch` queries.
            plan: Where `num_near` is above 0, `place` is that of a filter.
            first: `[batch, m]` int32, where in the order of the leaves pieces begin.
            last: Where they end.

        Returns:
            `[batch, n]` int64 candidate rows, distinct but for `NO_MORE`, in any order.
        """
        filters = list(request.filters.values())

        def of_filter(number: int, is_wanted: tf.Tensor) -> tf.Tensor:
            any_of = filters[number].any_of
            rows = self._near[number].listed(any_of, first, last).rows(is_wanted)
            # Those of one value are distinct.
            has_several = tf.math.count_nonzero(any_of != NO_ROW, axis=1) > 1
            return tf.cond(tf.reduce_any(has_several), rarely(lambda: distinct(rows)), lambda: rows)

        lists = []
        for number in range(len(filters)):
            is_wanted = (plan.place == number) & (plan.num_near > 0)
            lists.append(
                tf.cond(
                    tf.reduce_any(is_wanted),
                    rarely(functools.partial(of_filter, number, is_wanted)),
                    lambda: tf.zeros([tf.size(plan.place), 0], tf.int64),
                )
            )
        return tf.concat(lists, axis=1)

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
        place = self._shortest_list(request, corpus_size).place
        rows = tf.cond(
            place[0] == NO_LIST,
            lambda: tf.range(corpus_size, dtype=tf.int64),
            rarely(lambda: self.listed_rows(request, place)[0]),
        )
        rows = tf.boolean_mask(rows, rows != NO_MORE)
        return tf.boolean_mask(rows, self.is_eligible(request, rows[tf.newaxis])[0])

    def is_eligible(self, request: Request, candidate_rows: tf.Tensor) -> tf.Tensor:
        """Which candidates pass exclusions and filters.

        Args:
            request: Of `batch` queries.
            candidate_rows: `[batch, n]` int64.

        Returns:
            `[batch, n]` bool.
        """

        def narrowed(passes: tf.Tensor, is_asked: tf.Tensor, also: Callable[[], tf.Tensor]) -> Any:
            return tf.cond(is_asked, rarely(lambda: passes & also()), lambda: passes)

        passes = tf.ones_like(candidate_rows, tf.bool)
        excluded = request.excluded
        passes = narrowed(
            passes,
            tf.reduce_any(excluded != NO_ROW),
            lambda: ~is_among(candidate_rows, excluded),
        )
        if self._filters or request.ranges:
            passes = narrowed(
                passes,
                _is_filtered(request),
                lambda: self._passes_filters(request, candidate_rows),
            )
        return passes

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


class Legal(NamedTuple):
    """What must hold of the values of an input."""

    name: str
    holds: tf.Tensor  # [rows] bool
    expected: str  # As a message says it.


def checked(
    inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor, legal: Iterable[Legal] = ()
) -> tf.Tensor:
    """The number of queries, once their inputs have been checked.

    Args:
        inputs: Lists `[rows, n]`, at least one, then numbers `[rows]`.
        num_queries: int32 scalar.
        legal: What must hold of their values.

    Raises:
        tf.errors.InvalidArgumentError: When run, if an input has neither one row nor one a query, a
            list makes more than `MAX_CELLS` cells, or a value is not legal.
    """
    legal = list(legal)
    num_rows = _num_rows(inputs)
    lists = [values for values in inputs.values() if values.shape.rank == 2]
    widths = tf.stack([tf.shape(values) for values in lists])[:, 1]
    is_small = tf.cast(widths, tf.int64) * tf.cast(num_queries, tf.int64) <= MAX_CELLS
    is_legal = [one.holds for one in legal]
    holds = tf.concat([_fits(num_rows, num_queries), is_small, *is_legal], axis=0)

    def refused() -> tf.Tensor:
        checks = [
            assert_all(one.holds, [f"`{one.name}` must be {one.expected}, got", inputs[one.name]])
            for one in legal
        ]
        for (name, values), rows in zip(inputs.items(), tf.unstack(num_rows), strict=True):
            message = [f"`{name}` must have one row or one a query, got", rows, "for", num_queries]
            checks.append(assert_all(_fits(rows, num_queries), message))
            if values.shape.rank == 2:
                shape = tf.stack([num_queries, tf.shape(values)[1]])
                num_cells = tf.reduce_prod(tf.cast(shape, tf.int64))
                message = [f"`{name}` makes more than {MAX_CELLS} cells: ask fewer queries at once"]
                checks.append(assert_all(num_cells <= MAX_CELLS, [message[0] + ", got", shape]))
        with tf.control_dependencies(checks):
            return tf.identity(num_queries)

    # Their messages would take as long as the search.
    return tf.cond(tf.reduce_all(holds), lambda: num_queries, rarely(refused))


def _num_rows(inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """How many rows each input has, `[num_inputs]` int32; lists come before numbers."""
    shapes = [tf.shape(values) for values in inputs.values()]
    lists = [shape for shape in shapes if shape.shape[0] == 2]
    return tf.concat([tf.stack(lists)[:, 0], *shapes[len(lists) :]], axis=0)


def _fits(num_rows: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    return (num_rows == 1) | (num_rows == num_queries)


def for_each_query(name: str, values: tf.Tensor, num_queries: tf.Tensor) -> tf.Tensor:
    """Repeats a list that came as one row for all queries of the batch.

    Args:
        name: For messages.
        values: `[1, n]` or `[num_queries, n]`.
        num_queries: int32 scalar.

    Raises:
        tf.errors.InvalidArgumentError: See `checked`.
    """
    num_queries = checked({name: values}, num_queries)
    return tf.broadcast_to(values, tf.stack([num_queries, tf.shape(values)[1]]))


def assert_all(conditions: tf.Tensor, message: list[Any]) -> tf.Operation:
    """Fails with a message unless all conditions hold; one node, unlike `tf.debugging.Assert`."""
    data = [tf.convert_to_tensor(part) for part in message]
    return tf.raw_ops.Assert(condition=tf.reduce_all(conditions), data=data)


class _Reader:
    """Reads the inputs of a request, one row a query."""

    def __init__(self, inputs: Mapping[str, tf.Tensor], num_queries: tf.Tensor) -> None:
        """Joins the two.

        Args:
            inputs: Checked.
            num_queries: int32 scalar.
        """
        self._inputs = inputs
        self._one_each = tf.reshape(num_queries, [1])
        self._column = tf.zeros(tf.stack([num_queries, 1]), tf.int64)

    def scalar(self, name: str, dtype: tf.DType) -> tf.Tensor:
        """A number of each query, `[num_queries]`; 0 where the corpus has no such input."""
        values = self._inputs.get(name, tf.constant([0], dtype))
        return tf.broadcast_to(values, self._one_each)

    def rows(self, name: str, table: StringTable | FilterAttribute) -> tuple[tf.Tensor, tf.Tensor]:
        """The rows of a list of texts, `[batch, n]`, and whether it names any, `[batch]` bool."""
        texts = self._inputs[name]
        names_any = tf.reduce_any(texts != NO_ID, axis=1)
        rows = tf.cond(
            tf.reduce_any(names_any),
            rarely(lambda: table.rows(texts)),
            lambda: tf.fill(tf.shape(texts), tf.constant(NO_ROW, tf.int64)),
        )
        return rows + self._column, tf.broadcast_to(names_any, self._one_each)


def _is_filtered(request: Request) -> tf.Tensor:
    """Whether a filter or bounds apply to any query, bool scalar."""
    asked = []
    for wanted in request.filters.values():
        asked += [tf.reduce_any(wanted.is_restricted), tf.reduce_any(wanted.none_of != NO_ROW)]
    asked += [tf.reduce_any(bounds.is_restricted) for bounds in request.ranges]
    return tf.reduce_any(tf.stack(asked))


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

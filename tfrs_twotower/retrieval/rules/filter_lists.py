"""The candidates that the filters and bounds of a request leave, as lists."""

import functools
from collections.abc import Iterator

import tensorflow as tf

from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.control_flow import rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.lists import NO_MORE, Listed, distinct
from tfrs_twotower.retrieval.rules.plan import NO_LIST, Plan, ShortestList
from tfrs_twotower.retrieval.rules.request import Request, is_filtered
from tfrs_twotower.retrieval.string_table import NO_ROW


class FilterLists(tf.Module):
    """The candidates of a corpus, by value of each filter and in the order of each number."""

    def __init__(
        self, attributes: CandidateAttributes | None, leaves: CandidateLeaves | None
    ) -> None:
        """Joins the parts.

        Args:
            attributes: Of the corpus; None: there are none to filter by.
            leaves: Of the index of the corpus; None: there are none.
        """
        super().__init__()
        self._filters = attributes.filters if attributes else {}
        self._bounded = attributes.bounded if attributes else []
        self._near = (
            []
            if leaves is None
            else [attribute.near(leaves) for attribute in self._filters.values()]
        )

    @property
    def num_near_lists(self) -> int:
        """How many of the lists, the first ones, may be searched in near leaves."""
        return len(self._near)

    def shortest(self, request: Request, corpus_size: int) -> ShortestList:
        """What the filters and bounds leave to each query, and which leaves fewest.

        Args:
            request: Of `batch` queries.
            corpus_size: How many candidates there are.
        """
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
        return tf.cond(is_filtered(request), rarely(shortest), whole)

    def _lists(self, request: Request) -> Iterator[tuple[Listed, tf.Tensor]]:
        """What each filter and each pair of bounds leaves, and to which queries they apply."""
        for name, wanted in request.filters.items():
            yield self._filters[name].listed(wanted.any_of), wanted.is_restricted
        for numbers, bounds in zip(self._bounded, request.ranges, strict=True):
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

"""Rule 1: which candidates are eligible."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfrs_twotower.index.control_flow import rarely
from tfrs_twotower.retrieval.attributes import CandidateAttributes, is_among
from tfrs_twotower.retrieval.lists import NO_MORE
from tfrs_twotower.retrieval.rules.filter_lists import FilterLists
from tfrs_twotower.retrieval.rules.plan import NO_LIST
from tfrs_twotower.retrieval.rules.request import Request, is_filtered
from tfrs_twotower.retrieval.string_table import NO_ROW


class Eligibility(tf.Module):
    """Tells and finds the candidates of a corpus that pass exclusions and filters.

    Allow-lists are not asked here: where there is one, all candidates come from it, see
    `FilterLists.listed_rows`.
    """

    def __init__(self, attributes: CandidateAttributes | None, lists: FilterLists) -> None:
        """Joins the parts.

        Args:
            attributes: Of the corpus; None: there are none to filter by.
            lists: Of the same.
        """
        super().__init__()
        self._filters = attributes.filters if attributes else {}
        self._bounded = attributes.bounded if attributes else []
        self._lists = lists

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
        place = self._lists.shortest(request, corpus_size).place
        rows = tf.cond(
            place[0] == NO_LIST,
            lambda: tf.range(corpus_size, dtype=tf.int64),
            rarely(lambda: self._lists.listed_rows(request, place)[0]),
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
                is_filtered(request),
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
        for numbers, bounds in zip(self._bounded, request.ranges, strict=True):
            passes &= numbers.is_within(candidate_rows, bounds)
        return passes

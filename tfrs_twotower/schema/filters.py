"""The section `filters`: which valid events are left out."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt

from tfrs_twotower.schema.strict import Problem, Strict


class Filters(Strict):
    """Which valid events are left out before the split.

    First come negatives near a positive (`unless_positive_within_s` of `labels.events`), then
    duplicates, then the events of rare queries and candidates. The filters read the whole log, as
    published protocols do: whether an event of train stays may depend on later events, but its
    content never does. Candidates of the candidates file stay in the corpus, and queries keep their
    rows, even if all their events are left out.
    """

    duplicates: Literal["all", "first", "last", "strongest", "sum"] = Field(
        "all",
        description="Which of the events with the same query, candidate and label to keep: all, "
        "the first, the last, the first of those with the largest weight (strongest), or the last "
        "with the sum of their weights (sum).",
    )
    min_per_query: NonNegativeInt = Field(
        0, description="Leave out all events of queries that have fewer positives than this."
    )
    min_per_candidate: NonNegativeInt = Field(
        0, description="Leave out all events of candidates that have fewer positives than this."
    )
    k_core: bool = Field(
        False,
        description="Repeat until the remaining events satisfy both minima. false: count only "
        "once, in the whole log.",
    )

    def problems(self) -> Iterator[Problem]:
        """A core without a minimum."""
        if self.k_core and not self.has_minima:
            yield "k_core", "needs `min_per_query` or `min_per_candidate`"

    @property
    def has_minima(self) -> bool:
        """Whether queries or candidates need a number of positives."""
        return self.min_per_query > 0 or self.min_per_candidate > 0

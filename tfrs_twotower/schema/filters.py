"""The section `filters`: which valid events are left out."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt

from tfrs_twotower.schema.strict import Problem, Strict


class Filters(Strict):
    """Which valid events are left out before the split.

    First the negatives that a nearby positive supersedes (`labels.events`), then duplicates, then
    events of rare queries and candidates. The rules read the whole log, as published protocols do:
    whether an event of train stays may depend on later ones, what it holds never does. Candidates
    of the candidates file stay in the corpus, and queries keep their rows, whatever becomes of
    their events.
    """

    duplicates: Literal["all", "first", "last", "strongest", "sum"] = Field(
        "all",
        description="Which to keep of the events of one query, candidate and label: all, the first "
        "or last, the first of the largest weight, or the last with the sum of their weights.",
    )
    min_per_query: NonNegativeInt = Field(
        0, description="Positives of a query; with fewer, all its events are left out."
    )
    min_per_candidate: NonNegativeInt = Field(
        0, description="Positives of a candidate; with fewer, all its events are left out."
    )
    k_core: bool = Field(
        False,
        description="Count again what is left until both minima hold in it; false: count once, in "
        "the whole log.",
    )

    def problems(self) -> Iterator[Problem]:
        """A core without a minimum."""
        if self.k_core and not self.has_minima:
            yield "k_core", "needs `min_per_query` or `min_per_candidate`"

    @property
    def has_minima(self) -> bool:
        """Whether queries or candidates need a number of positives."""
        return self.min_per_query > 0 or self.min_per_candidate > 0

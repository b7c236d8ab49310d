"""The section `labels`: how events become labelled, weighted examples."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tfrs_twotower.schema.strict import Problem, Strict


class Label(Strict):
    """Whether an event is a positive (1) or an explicit negative (0), and how much it weighs."""

    label: Literal[0, 1] = 1
    weight: PositiveFloat = 1.0
    unless_positive_within_s: PositiveInt | None = Field(
        None,
        description="For an event type with label 0, such as an impression: leave the event out if "
        "the query has a positive of the candidate at most so many seconds before or after it.",
    )

    def problems(self) -> Iterator[Problem]:
        """A window of a positive."""
        if self.label == 1 and self.unless_positive_within_s is not None:
            yield "unless_positive_within_s", "is for `label: 0`"


class Labels(Strict):
    """How events become labelled, weighted examples.

    Without rules, every event is a positive of weight 1. If both the type and the value of an
    event have a rule, the value decides the label, and the weights are multiplied.
    """

    events: dict[str, Label] = Field(
        default_factory=dict,
        description="Rules by `columns.event`. Events of a type without a rule are rejected.",
    )
    values: dict[float, Label] = Field(
        default_factory=dict,
        description="Rules by the exact `columns.value`, for thumbs. Events with another value are "
        "rejected.",
    )
    positive_from: float | None = Field(
        None,
        description="Events with at least this value are positives, others explicit negatives.",
    )

    def problems(self) -> Iterator[Problem]:
        """Two rules for the value column, and windows of values."""
        if self.values and self.positive_from is not None:
            yield "positive_from", "`values` rules the value column already: keep one of the two"
        if any(rule.unless_positive_within_s for rule in self.values.values()):
            yield "values", "`unless_positive_within_s` is for `events`, not for `values`"

    @property
    def has_windows(self) -> bool:
        """Whether some negatives are superseded by a positive near them."""
        return any(rule.unless_positive_within_s for rule in self.events.values())

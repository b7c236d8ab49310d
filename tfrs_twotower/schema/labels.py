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
        description="Of an event type with label 0, such as an impression: leave it out where the "
        "query has a positive of the candidate so many seconds before or after it.",
    )

    def problems(self) -> Iterator[Problem]:
        """A window of a positive."""
        if self.label == 1 and self.unless_positive_within_s is not None:
            yield "unless_positive_within_s", "is for `label: 0`"


class Labels(Strict):
    """How events become labelled, weighted examples.

    Without rules every event is a positive of weight 1. An event type and a value may both have
    a rule: the value, where there is one, decides the label, and the weights multiply.
    """

    events: dict[str, Label] = Field(
        default_factory=dict,
        description="By `columns.event`; events of a type without a rule are rejected.",
    )
    values: dict[float, Label] = Field(
        default_factory=dict,
        description="By exact `columns.value`, for thumbs; events of other values are rejected.",
    )
    positive_from: float | None = Field(
        None, description="Values from here on are positives, lower ones explicit negatives."
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

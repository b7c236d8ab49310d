"""The section `search`: what `twotower tune` tries."""

from collections.abc import Iterator

from tfrs_twotower.schema.strict import Problem, Strict


class Range(Strict):
    """Numbers from `low` to `high`, whole ones where both are; `log`: small ones as often."""

    low: int | float
    high: int | float
    log: bool = False

    def problems(self) -> Iterator[Problem]:
        """Ends in the wrong order, and a logarithm of zero or less."""
        if self.low >= self.high:
            yield "high", f"{self.high} must be above `low` ({self.low})"
        if self.log and self.low <= 0:
            yield "low", f"{self.low} must be above 0 with `log: true`"

"""The section `split`: which events train, validate and test."""

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import Field

from tfrs_twotower.schema.strict import Problem, Strict

SPLITS = ("train", "validation", "test")


class Split(Strict):
    """Which events are for train, validation and test.

    `time`: the last shares of all events; events of the same second are in the same part. `dates`:
    from the given days (00:00 UTC) on. `leave_last_out`: the last event of a query is for test, the
    one before it for validation; queries with fewer than three events are only in train.
    `temporal_user`: of the `n` events of a query, in order, the last `floor(test * n)` are for
    test, and the `floor(validation * n)` before them for validation. `column`: as `columns.split`
    says. `random`: by a hash of query, candidate and time. This leaks the future, so use it only
    for protocols that require it.
    """

    by: Literal["time", "dates", "leave_last_out", "temporal_user", "column", "random"] = "time"
    validation: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of the events (for time, temporal_user, random)."
    )
    test: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of the events (for time, temporal_user, random)."
    )
    validation_from: date | None = Field(None, description="First day of validation (for dates).")
    test_from: date | None = Field(None, description="First day of test (for dates).")
    gap_s: int = Field(
        0,
        ge=0,
        description="Seconds ahead of validation, and of test, whose events are in no part: so "
        "long before it serves a model has its last data (for time, dates).",
    )
    hold_out: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of train that a hash moves to validation (for column).",
    )

    corpus: Literal["train", "log"] = Field(
        "train",
        description="The corpus if there is no candidates file: the ids of train, so that events "
        "of newer candidates cannot be evaluated, or all ids of the log.",
    )

    def problems(self) -> Iterator[Problem]:
        """Shares that leave nothing for train, a gap of no use, dates missing or reversed."""
        if self.validation + self.test >= 1.0:
            yield "", "`validation` + `test` must leave a share for train (below 1.0)"
        if self.gap_s and self.by not in ("time", "dates"):
            yield "gap_s", "is for `by: time` and `by: dates`, where all of a part is later"
        if self.by != "dates":
            return
        if self.validation_from is None or self.test_from is None:
            yield "by", "dates needs `validation_from` and `test_from`"
        elif self.validation_from > self.test_from:
            yield "validation_from", "must not be later than `test_from`"

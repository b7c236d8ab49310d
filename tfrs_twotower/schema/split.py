"""The section `split`: which events train, validate and test."""

from collections.abc import Iterator
from datetime import date
from typing import Literal

from pydantic import Field

from tfrs_twotower.schema.strict import Problem, Strict

SPLITS = ("train", "validation", "test")


class Split(Strict):
    """Which events train, validate and test.

    `time`: by quantile of events, events of the same second together. `dates`: from the given
    days (00:00 UTC) on. `leave_last_out`: a query's last event tests, the one before validates;
    queries with fewer than three events train only. `temporal_user`: of the `n` events of a query,
    in their order, the last `floor(test * n)` test and the `floor(validation * n)` before them
    validate. `column`: as given in `columns.split`. `random`: by hash of query, candidate and
    time, which leaks the future: only for protocols that ask for it.
    """

    by: Literal["time", "dates", "leave_last_out", "temporal_user", "column", "random"] = "time"
    validation: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of events (time, temporal_user, random)."
    )
    test: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of events (time, temporal_user, random)."
    )
    validation_from: date | None = Field(None, description="First day of validation (dates).")
    test_from: date | None = Field(None, description="First day of test (dates).")
    hold_out: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of train moved to validation by hash (column)."
    )

    corpus: Literal["train", "log"] = Field(
        "train",
        description="The candidates where there is no candidates file: the ids of train, whose "
        "later events alone are judged, or all ids of the log, the new ones among them.",
    )

    def problems(self) -> Iterator[Problem]:
        """Shares that leave nothing for train, and dates that are missing or reversed."""
        if self.validation + self.test >= 1.0:
            yield "", "`validation` + `test` must leave a share for train (below 1.0)"
        if self.by != "dates":
            return
        if self.validation_from is None or self.test_from is None:
            yield "by", "dates needs `validation_from` and `test_from`"
        elif self.validation_from > self.test_from:
            yield "validation_from", "must not be later than `test_from`"

"""The section `columns`: which column of the data plays which role."""

from collections.abc import Iterator

from pydantic import Field

from tfrs_twotower.schema.strict import Problem, Strict

UNITS_A_SECOND = {
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}


class Columns(Strict):
    """Which column of the data plays which role.

    The id columns have the same name in the interactions, candidates and queries files. A path,
    such as `user.id`, names a value within an object of JSON or Parquet.
    """

    query_id: str = "user_id"
    candidate_id: str = "item_id"
    timestamp: str | None = Field(
        None,
        examples=["timestamp"],
        description="Unix seconds, dates or ISO 8601, in UTC where no zone is given; default: "
        "null, data without times, which need another `split.by`.",
    )
    time_format: str | None = Field(
        None,
        description="How files write times that are none of these: milliseconds, microseconds, "
        "nanoseconds, or a format of strptime such as '%d/%m/%Y %H:%M'. For all columns that hold "
        "times.",
    )
    order: str | None = Field(
        None, description="Integer; orders events of one query and equal time."
    )
    event: str | None = Field(None, description="Event type, named in `labels.events`.")
    value: str | None = Field(None, description="Rating or thumbs, read by `labels`.")
    split: str | None = Field(None, description="Holds train, validation or test (pre-split data).")
    title: str | None = Field(None, description="Of the candidates file: the name shown to people.")
    available_from: str | None = Field(
        None, description="Of the candidates file: a time like `timestamp`; not recommended before."
    )

    def problems(self) -> Iterator[Problem]:
        """One column for both ids; a format of times that is none."""
        if self.query_id == self.candidate_id:
            yield "candidate_id", "is the same column as `query_id`"
        written = self.time_format
        if written is not None and written not in UNITS_A_SECOND and "%" not in written:
            expected = f"{', '.join(UNITS_A_SECOND)} or a format of strptime such as '%d/%m/%Y'"
            yield "time_format", f"{written!r} is no format: expected {expected}"

    @property
    def has_order(self) -> bool:
        """Whether events have a before and an after; without, histories leave the target out."""
        return self.timestamp is not None or self.order is not None

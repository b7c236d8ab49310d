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

    The id columns have the same names in the interactions, candidates and queries files. A path
    such as `user.id` names a value inside a JSON object or a Parquet struct.
    """

    query_id: str = "user_id"
    candidate_id: str = "item_id"
    timestamp: str | None = Field(
        None,
        examples=["timestamp"],
        description="The time of an event: Unix seconds, a date or ISO 8601, in UTC if it has no "
        "zone. Default: null, for data without times, which need another `split.by`.",
    )
    time_format: str | None = Field(
        None,
        description="The format of times that are written in another way: milliseconds, "
        "microseconds, nanoseconds, or a format of strptime such as '%d/%m/%Y %H:%M'. It applies "
        "to all columns with times.",
    )
    order: str | None = Field(
        None, description="An integer that orders the events of a query that have the same time."
    )
    event: str | None = Field(None, description="The type of an event; see `labels.events`.")
    value: str | None = Field(
        None, description="A rating or thumbs; see `labels.values` and `labels.positive_from`."
    )
    split: str | None = Field(
        None, description="Contains train, validation or test, for data that is already split."
    )
    title: str | None = Field(
        None, description="In the candidates file: the name that is shown to people."
    )
    available_from: str | None = Field(
        None,
        description="In the candidates file: the time before which a candidate is not recommended, "
        "written like `timestamp`.",
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

"""The section `columns`: which column of the data plays which role."""

from collections.abc import Iterator

from pydantic import Field

from tfrs_twotower.schema.strict import Problem, Strict


class Columns(Strict):
    """Which column of the data plays which role.

    The id columns have the same name in the interactions, candidates and queries files.
    """

    query_id: str = "user_id"
    candidate_id: str = "item_id"
    timestamp: str | None = Field(
        None,
        examples=["timestamp"],
        description="Unix seconds, dates or ISO 8601, in UTC where no zone is given; default: "
        "null, data without times, which need another `split.by`.",
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
        """One column for both ids."""
        if self.query_id == self.candidate_id:
            yield "candidate_id", "is the same column as `query_id`"

    @property
    def has_order(self) -> bool:
        """Whether events have a before and an after; without, histories leave the target out."""
        return self.timestamp is not None or self.order is not None

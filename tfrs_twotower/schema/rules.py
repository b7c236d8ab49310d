"""The section `rules`: what `recommend` leaves out, and the columns that its rules read."""

from pydantic import Field

from tfrs_twotower.schema.strict import Strict


class Rules(Strict):
    """What `recommend` leaves out, and which columns of the candidates its rules may use.

    A column is a candidate feature, one of `export.attributes`, or `available_from`.
    """

    exclude_known: bool = Field(
        True,
        description="Leave out a query's known positives, in evaluation and in answers. false: for "
        "data in which repeats are wanted (music, groceries).",
    )

    filters: list[str] = Field(
        default_factory=list,
        description="Columns for the inputs `filter_<name>_any` and `filter_<name>_none`.",
    )
    ranges: list[str] = Field(
        default_factory=list,
        description="Columns with numbers or times, for the inputs `filter_<name>_min` and "
        "`filter_<name>_max`.",
    )
    available_from: str | None = Field(
        None,
        description="Column with the Unix seconds before which a candidate is left out, for the "
        "input `now_s`.",
    )
    available_until: str | None = Field(
        None,
        description="Column with the Unix seconds after which a candidate is left out, for the "
        "input `now_s`.",
    )
    category: str | None = Field(
        None,
        description="Column with one value per candidate, for the input `max_per_category`.",
    )
    timestamp: str | None = Field(
        None,
        description="Column with Unix seconds, for the input `half_life_s`. Default: "
        "`available_from`, if it is set.",
    )

    @property
    def columns(self) -> list[str]:
        """Every column that is named."""
        availability = (self.available_from, self.available_until)
        named = [*self.filters, *self.ranges, *availability, self.category, self.timestamp]
        return [name for name in named if name is not None]

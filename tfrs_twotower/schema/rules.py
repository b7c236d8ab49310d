"""The section `rules`: what `recommend` leaves out, and the columns that its rules read."""

from pydantic import Field

from tfrs_twotower.schema.strict import Strict


class Rules(Strict):
    """What `recommend` leaves out, and which columns of the candidates its rules read.

    A column is a candidate feature, one of `export.attributes`, or `available_from`.
    """

    exclude_known: bool = Field(
        True,
        description="Whether a query's known positives are left out, in evaluation and in answers; "
        "false: repeats are wanted (music, groceries).",
    )

    filters: list[str] = Field(
        default_factory=list,
        description="Give the inputs `filter_<name>_any` and `filter_<name>_none`.",
    )
    ranges: list[str] = Field(
        default_factory=list,
        description="Numbers and times; give the inputs `filter_<name>_min` and "
        "`filter_<name>_max`.",
    )
    available_from: str | None = Field(
        None,
        description="Unix seconds before which a candidate is left out, by the input `now_s`.",
    )
    available_until: str | None = Field(
        None,
        description="Unix seconds after which a candidate is left out, by the input `now_s`.",
    )
    category: str | None = Field(None, description="One value a candidate; of `max_per_category`.")
    timestamp: str | None = Field(
        None,
        description="Unix seconds, of `half_life_s`; default: `available_from`, where there is one",
    )

    @property
    def columns(self) -> list[str]:
        """Every column that is named."""
        availability = (self.available_from, self.available_until)
        named = [*self.filters, *self.ranges, *availability, self.category, self.timestamp]
        return [name for name in named if name is not None]

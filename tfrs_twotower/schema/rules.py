"""The section `rules`: which columns of the candidates the rules of `recommend` read."""

from pydantic import Field

from tfrs_twotower.schema.strict import Strict


class Rules(Strict):
    """Which columns of the candidates the rules of `recommend` read.

    A column is a candidate feature, one of `export.attributes`, or `available_from`.
    """

    filters: list[str] = Field(
        default_factory=list,
        description="Give the inputs `filter_<name>_any` and `filter_<name>_none`.",
    )
    category: str | None = Field(None, description="One value a candidate; of `max_per_category`.")
    timestamp: str | None = Field(
        None,
        description="Unix seconds, of `half_life_s`; default: `available_from`, where there is one",
    )

    @property
    def columns(self) -> list[str]:
        """Every column that is named."""
        named = [*self.filters, self.category, self.timestamp]
        return [name for name in named if name is not None]

"""The section `index`: the ScaNN index inside `retrieval`."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from tfrs_twotower.schema.strict import Strict


class Index(Strict):
    """The ScaNN index inside `retrieval`; brute force below `brute_force_below` candidates."""

    brute_force_below: int = Field(20_000, ge=0)
    num_leaves: PositiveInt | None = Field(None, description="Default: sqrt of the corpus size.")
    leaves_to_search: PositiveInt | None = Field(None, description="Default: a tenth of the leaves")
    reorder: PositiveInt | None = Field(
        None, description="Candidates rescored exactly; default: 500."
    )
    dimensions_per_block: PositiveInt | None = Field(
        None, description="Dimensions that share four bits of a quantised code; default: 2."
    )
    anisotropic_threshold: NonNegativeFloat = 0.2
    target_recall: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Tune the parameters that are not given, so that the index finds this share of "
        "the exact answer; null: the defaults.",
    )
    at: PositiveInt = Field(
        100, description="The k that the parameters suit; larger ones search wider."
    )
    refresh_rebuild_share: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="`twotower refresh` keeps the tree until more than this share of the "
        "candidates is gone from it, or not in it; 0: it is built anew by each.",
    )

"""The section `index`: the approximate indexes inside `retrieval` and `retrieval_stock`."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from tfrs_twotower.schema.strict import Strict


class Index(Strict):
    """The approximate indexes; `retrieval` is exact below `brute_force_below` candidates."""

    brute_force_below: int = Field(20_000, ge=0)
    num_leaves: PositiveInt | None = Field(
        None, description="Default: the square root of the corpus size."
    )
    leaves_to_search: PositiveInt | None = Field(
        None, description="Default: a tenth of the leaves."
    )
    reorder: PositiveInt | None = Field(
        None, description="How many candidates are scored again exactly. Default: 500."
    )
    dimensions_per_block: PositiveInt | None = Field(
        None, description="How many dimensions share four bits of a quantised code. Default: 2."
    )
    anisotropic_threshold: NonNegativeFloat = 0.2
    target_recall: float | None = Field(
        None,
        gt=0.0,
        lt=1.0,
        description="Tune the parameters that are not set, so that the index finds this share of "
        "the exact best candidates. null: use the defaults.",
    )
    at: PositiveInt = Field(
        100, description="The k for which the index is tuned; a larger k widens the search."
    )
    leaf_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="How `retrieval_stock` holds the embeddings in its leaves. bfloat16: in half "
        "the memory, batches perhaps slower; the scores of the answer stay exact.",
    )
    refresh_rebuild_share: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        description="`twotower refresh` keeps the tree until more than this share of the "
        "candidates is gone from it or not in it. 0: each refresh builds it anew.",
    )

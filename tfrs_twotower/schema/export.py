"""The section `export`: which SavedModels are made, and what they return."""

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from tfrs_twotower.schema.strict import Problem, Strict


class Export(Strict):
    """Which SavedModels are made, and what they return."""

    default_k: PositiveInt = Field(10, description="Candidates that `serving_default` returns.")
    max_k: PositiveInt = Field(1000, description="The largest `k` of a request.")
    retrieval: bool = Field(
        True, description="Whether to make `retrieval`, by ScaNN, beside `retrieval_exact`."
    )
    retrieval_stock: bool = Field(
        True,
        description="Whether to make `retrieval_stock`, by inverted lists of stock TensorFlow ops, "
        "for a corpus that is not searched by brute force (`index.brute_force_below`).",
    )
    similarity: bool = Field(
        False,
        description="Whether to make `similarity`, which scores given candidates by the vectors "
        "that it holds of them and of the known queries, without a tower.",
    )
    attributes: list[str] = Field(
        default_factory=list, description="Columns of the candidates file shown with candidates."
    )

    def problems(self) -> Iterator[Problem]:
        """A default above the maximum."""
        if self.default_k > self.max_k:
            yield "default_k", f"{self.default_k} is above `max_k` ({self.max_k})"

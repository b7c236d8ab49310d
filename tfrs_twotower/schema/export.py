"""The section `export`: which SavedModels are made, and what they return."""

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from tfrs_twotower.schema.strict import Problem, Strict


class Export(Strict):
    """Which SavedModels are made, and what they return."""

    default_k: PositiveInt = Field(10, description="How many candidates `serving_default` returns.")
    max_k: PositiveInt = Field(1000, description="The largest `k` of a request.")
    retrieval: bool = Field(
        True, description="Export `retrieval`, which uses ScaNN, in addition to `retrieval_exact`."
    )
    retrieval_stock: bool = Field(
        True,
        description="Export `retrieval_stock`, which uses inverted lists made of stock TensorFlow "
        "operations, if the corpus is not searched by brute force (`index.brute_force_below`).",
    )
    similarity: bool = Field(
        False,
        description="Export `similarity`, which scores given candidates without a tower, from "
        "stored vectors of the candidates and the known queries.",
    )
    attributes: list[str] = Field(
        default_factory=list,
        description="Columns of the candidates file that are shown with each candidate.",
    )

    def problems(self) -> Iterator[Problem]:
        """A default above the maximum."""
        if self.default_k > self.max_k:
            yield "default_k", f"{self.default_k} is above `max_k` ({self.max_k})"

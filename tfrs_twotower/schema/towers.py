"""The section `towers`: the layers of the model."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from tfrs_twotower.schema.strict import Problem, Strict

ContextMode = Literal["user_tower", "trilinear", "scoring_layer"]


class Tower(Strict):
    """Layers between the concatenated features and the output of one tower."""

    hidden_units: list[PositiveInt] = Field(default_factory=list)
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout after each hidden layer.")
    input_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Dropout of the entries of the concatenated features; for a tower of a single "
        "id, of the entries of its embedding.",
    )
    cross_layers: NonNegativeInt = Field(
        0, description="Layers that multiply features with each other, before the hidden layers."
    )


class Towers(Strict):
    """Both towers end in an L2-normalised vector of size `embedding_dim`, so a score is a cosine.

    How context features are combined with the query (without any, all modes are the same):

    * `user_tower`: they are inputs of the query tower;
    * `trilinear`: score = dot(query * context, candidate), with an elementwise product; the query's
      half can be computed in advance and combined with the context later;
    * `scoring_layer`: score = linear([query, candidate, context]), or a network with hidden layers
      of `scoring_hidden_units`. The linear form is a sum, so it ranks the candidates in the same
      order for every query and context. A vector index cannot search by this score.
    """

    embedding_dim: PositiveInt = 32
    query: Tower = Tower()
    candidate: Tower = Tower()
    build: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="Your own model instead of these towers: `module:function`, which is called "
        "with the prepared data; see `tfrs_twotower.models.custom`.",
    )
    context: Tower = Field(Tower(), description="The context tower of trilinear and scoring_layer.")
    context_mode: ContextMode = "user_tower"
    scoring_hidden_units: list[PositiveInt] = Field(
        default_factory=list, description="Hidden layers of scoring_layer."
    )

    def problems(self) -> Iterator[Problem]:
        """Settings of another context mode."""
        if self.scoring_hidden_units and self.context_mode != "scoring_layer":
            yield "scoring_hidden_units", "needs `context_mode: scoring_layer`"
        if self.context != Tower() and self.context_mode == "user_tower":
            yield (
                "context",
                "is the tower of `context_mode: trilinear` and `scoring_layer`; with user_tower "
                "the context goes through `query`",
            )

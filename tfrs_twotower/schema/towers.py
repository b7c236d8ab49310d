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
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="After each hidden layer.")
    input_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Of the concatenated features, entry by entry; of a lone id: of its embedding.",
    )
    cross_layers: NonNegativeInt = Field(
        0, description="Layers that multiply features with one another, before the hidden ones."
    )


class Towers(Strict):
    """Both towers end in an L2-normalised vector of `embedding_dim`: a score is a cosine.

    How the context features join the query (without any, all modes are the same):

    * `user_tower`: as a part of the query tower's input;
    * `trilinear`: score = dot(query * context, candidate), elementwise; the query's half can be
      computed ahead and joined with the context later;
    * `scoring_layer`: score = linear([query, candidate, context]), or a network with hidden layers
      of `scoring_hidden_units`. The linear form is a sum: it ranks the candidates alike for every
      query and context. No index of vectors can search by it.
    """

    embedding_dim: PositiveInt = 32
    query: Tower = Tower()
    candidate: Tower = Tower()
    build: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="A model of your own in place of these towers: `module:function`, called with "
        "the prepared data; see `tfrs_twotower.models.custom`.",
    )
    context: Tower = Field(Tower(), description="Of trilinear and scoring_layer.")
    context_mode: ContextMode = "user_tower"
    scoring_hidden_units: list[PositiveInt] = Field(
        default_factory=list, description="Of scoring_layer."
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

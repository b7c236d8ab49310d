"""The section `loss`: the training objective and its negatives."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from tfrs_twotower.schema.strict import Problem, Strict

Kind = Literal["softmax", "margin", "bpr", "bce"]


class Loss(Strict):
    """The loss, which rewards scores of positives that are above those of negatives.

    `softmax`: cross-entropy of the positive against the other candidates of the batch (in-batch
    negatives). `margin`: hinge loss, by which the positive must beat each negative by `margin`.
    `bpr`: the logistic form of it. `bce`: binary cross-entropy of labelled pairs. `margin`, `bpr`
    and `bce` use the negatives that the keys below ask for; `softmax` uses them in addition to
    those of the batch.
    """

    kind: Kind = "softmax"
    temperature: PositiveFloat = Field(
        0.1, description="The cosine is divided by it (not for margin)."
    )
    learn_temperature: bool | None = Field(
        None,
        description="Learn the temperature, starting from `temperature`. Default: only for bce.",
    )
    bilateral_weight: PositiveFloat | None = Field(
        None,
        description="For softmax: the weight of the negatives against the positive, which is then "
        "not in the denominator (bilateral softmax, BSL); about 1.2. Default: plain softmax.",
    )
    margin: float = Field(
        0.5, gt=0.0, le=2.0, description="For margin: the difference of cosines to reach."
    )
    logq_correction: bool = Field(
        True,
        description="For softmax: divide each negative by the probability with which it is drawn.",
    )
    mask: Literal["none", "accidental_hits", "known_positives"] = Field(
        "known_positives",
        description="Which candidates of the batch are not used as negatives of a query. "
        "accidental_hits: the example's own positive, if it occurs again. known_positives: all "
        "positives of the query in train.",
    )
    in_batch_negatives: bool = Field(
        True,
        description="For softmax: use the other candidates of the batch. false: use only "
        "`uniform_negatives`.",
    )
    uniform_negatives: NonNegativeInt = Field(
        0,
        description="How many to draw from the corpus for each batch, as negatives of all its "
        "queries.",
    )
    hard_negatives: NonNegativeInt = Field(
        0, description="Use only the n highest-scored negatives of the batch. 0: all (for softmax)."
    )
    explicit_negatives: NonNegativeInt | None = Field(
        None,
        description="How many of the query's events with label 0 to use for each positive. "
        "Default: 1 for margin and bpr, otherwise 0. bce reads all such events as pairs.",
    )
    implicit_negatives: NonNegativeInt | None = Field(
        None,
        description="How many to draw from the corpus for each positive. Default for margin, bpr "
        "and bce: 4 if there are fewer than 0.3 events with label 0 per positive, otherwise 0.",
    )
    mined_negatives: NonNegativeInt = Field(
        0,
        description="How many of the candidates that the model ranks highest for the query to use "
        "for each positive.",
    )
    mine_every: PositiveInt = Field(2, description="Mine again after so many epochs.")
    mine_from: PositiveInt = Field(
        100, description="Mine from so many of the highest-ranked candidates."
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed_keys(cls, data: Any) -> Any:
        return _with_one_mask(data) if isinstance(data, dict) else data

    def problems(self) -> Iterator[Problem]:
        """Options that the kind does not have, and negatives that are missing or too many."""
        yield from _options_of_other_kinds(self)
        has_none = self.explicit_negatives == self.implicit_negatives == self.hard_negatives == 0
        if self.kind in ("margin", "bpr") and has_none:
            yield (
                "kind",
                f"{self.kind} has no negatives: give `implicit_negatives`, `explicit_negatives` or "
                "`hard_negatives`",
            )
        if not self.in_batch_negatives and not self.uniform_negatives:
            yield "in_batch_negatives", "false needs `uniform_negatives`"
        if self.mined_negatives > self.mine_from:
            yield (
                "mined_negatives",
                f"{self.mined_negatives} is above `mine_from` ({self.mine_from})",
            )

    @property
    def learns_temperature(self) -> bool:
        """Whether the temperature is a weight of the model."""
        return self.kind == "bce" if self.learn_temperature is None else self.learn_temperature

    @property
    def ranks_batch(self) -> bool:
        """Whether the candidates of the batch are negatives of its queries."""
        return self.kind == "softmax" or self.hard_negatives > 0

    @property
    def explicit_count(self) -> int:
        """Explicit negatives for each positive."""
        if self.explicit_negatives is not None:
            return self.explicit_negatives
        return 1 if self.kind in ("margin", "bpr") else 0

    @property
    def draws_from_corpus(self) -> str | None:
        """The first option whose negatives are candidates of the corpus, not of an event."""
        implicit = self.implicit_negatives
        counts = {
            "uniform_negatives": self.uniform_negatives,
            "implicit_negatives": self.kind != "softmax" if implicit is None else implicit,
            "explicit_negatives": self.explicit_count,
            "mined_negatives": self.mined_negatives,
        }
        return next((name for name, count in counts.items() if count), None)


class _Owners(NamedTuple):
    """The kinds of loss that have an option, in words and as a test."""

    words: str
    include: Callable[[Loss], bool]


_SOFTMAX = _Owners("softmax", lambda loss: loss.kind == "softmax")
_PLAIN_SOFTMAX = _Owners(
    "softmax without `hard_negatives`",
    lambda loss: loss.kind == "softmax" and not loss.hard_negatives,
)
_MARGIN = _Owners("margin", lambda loss: loss.kind == "margin")
_NOT_MARGIN = _Owners("softmax, bpr and bce", lambda loss: loss.kind != "margin")
_NOT_BCE = _Owners("softmax, margin and bpr", lambda loss: loss.kind != "bce")
_BATCH = _Owners(
    "softmax, and of margin and bpr with `hard_negatives`", lambda loss: loss.ranks_batch
)

# Every other option is one of all kinds.
_OWNERS: Mapping[str, _Owners] = {
    "temperature": _NOT_MARGIN,
    "learn_temperature": _NOT_MARGIN,
    "bilateral_weight": _PLAIN_SOFTMAX,
    "margin": _MARGIN,
    "logq_correction": _SOFTMAX,
    "mask": _BATCH,
    "in_batch_negatives": _PLAIN_SOFTMAX,
    "uniform_negatives": _BATCH,
    "hard_negatives": _NOT_BCE,
    "explicit_negatives": _NOT_BCE,
}


def _options_of_other_kinds(loss: Loss) -> Iterator[Problem]:
    """Options without effect. At their defaults they pass: a dumped config holds every key."""
    for name, owners in _OWNERS.items():
        is_default = getattr(loss, name) == Loss.model_fields[name].default
        if not is_default and not owners.include(loss):
            is_hard = loss.hard_negatives and loss.kind != "bce"
            kind = f"{loss.kind} with `hard_negatives`" if is_hard else loss.kind
            yield name, f"does not apply to {kind}: it is an option of {owners.words}"


def _with_one_mask(data: dict[str, Any]) -> dict[str, Any]:
    """Translates the two keys that `mask` has replaced; earlier configs and run folders hold them.

    `mask_known_positives` had no effect where `mask_accidental_hits` was false.
    """
    former = {
        key: data[key]
        for key in ("mask_accidental_hits", "mask_known_positives")
        if isinstance(data.get(key), bool)
    }
    if not former:
        return data
    mask = data.get("mask", "known_positives")
    if not former.get("mask_accidental_hits", mask != "none"):
        mask = "none"
    elif former.get("mask_known_positives", mask == "known_positives"):
        mask = "known_positives"
    else:
        mask = "accidental_hits"
    return {key: value for key, value in data.items() if key not in former} | {"mask": mask}

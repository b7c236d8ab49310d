"""The section `features`: the features of the query, of the context and of the candidate."""

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from pydantic import Field

from tfrs_twotower.schema.features import (
    Aggregate,
    AnyFeature,
    Feature,
    History,
    Id,
    NamedFeature,
    Number,
    is_aggregate,
)
from tfrs_twotower.schema.strict import Problem, Strict

F = TypeVar("F", bound=Feature)

# Names of the records and of the `recommend` and `score` signatures that no feature may take.
RESERVED_NAMES = frozenset(
    ("query_id", "query_row", "candidate_id", "candidate_ids", "candidate_row", "label", "weight")
    + ("timestamp_s", "k", "exclude_ids", "allow_ids", "half_life_s", "now_s", "mmr_lambda")
    + ("max_per_category", "min_score", "self", "user_embedding")
)

SIDES = ("query", "context", "candidate")
_CONTENT = ("categorical", "multi_categorical", "text", "number", "boolean", "vector", "timestamp")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "query": ("id", *_CONTENT, "history"),
    "context": _CONTENT,
    "candidate": ("id", *_CONTENT),
}


def is_feature_name(name: str) -> bool:
    """Whether a feature may have a name: an input of the served models and of a Python function."""
    return (
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
        and name not in RESERVED_NAMES
        and not keyword.iskeyword(name)
        and not name.startswith("filter_")
    )


class Features(Strict):
    """Features by side; the key is the feature's name and its input in the SavedModels.

    `query`: what is known of the query ahead (queries file). `context`: of the moment of the query
    (the interaction's row). `candidate`: of the candidates file.
    """

    query: dict[str, AnyFeature] = Field(default_factory=dict)
    context: dict[str, AnyFeature] = Field(default_factory=dict)
    candidate: dict[str, AnyFeature] = Field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        """Names and kinds that a side cannot have, and sides that cannot be towers."""
        yield from _illegal_names(self)
        yield from _kinds_of_other_sides(self)
        yield from _repeated_kinds(self)
        yield from _empty_towers(self)
        yield from _repeated_names(self)
        yield from _histories_of_nothing(self)

    @property
    def by_side(self) -> dict[str, dict[str, Feature]]:
        """The features of each of `SIDES`."""
        return {side: dict(getattr(self, side)) for side in SIDES}

    @property
    def history(self) -> NamedFeature[History] | None:
        """The history, if the query tower reads one."""
        return _only(History, self.query)

    @property
    def history_candidate_features(self) -> dict[str, Feature]:
        """The id and the features of a history's candidates; empty where it reads ids alone."""
        named = self.history.feature.candidate_features if self.history else []
        if not named or self.candidate_id is None:
            return {}
        return {name: self.candidate[name] for name in (self.candidate_id.name, *named)}

    @property
    def query_id(self) -> NamedFeature[Id] | None:
        """The query's id, if the query tower reads it."""
        return _only(Id, self.query)

    @property
    def candidate_id(self) -> NamedFeature[Id] | None:
        """The candidate's id, if the candidate tower reads it."""
        return _only(Id, self.candidate)

    @property
    def query_aggregates(self) -> dict[str, Aggregate]:
        """Aggregates of the query's earlier events, by feature."""
        return _aggregates(self.context)

    @property
    def candidate_aggregates(self) -> dict[str, Aggregate]:
        """Aggregates of the candidate's earlier events, by feature."""
        return _aggregates(self.candidate)


def _only(kind: type[F], features: Mapping[str, Feature]) -> NamedFeature[F] | None:
    found = (NamedFeature(name, f) for name, f in features.items() if isinstance(f, kind))
    return next(found, None)


def _aggregates(features: Mapping[str, Feature]) -> dict[str, Aggregate]:
    return {
        name: feature.aggregate
        for name, feature in features.items()
        if isinstance(feature, Number) and feature.aggregate is not None
    }


def _illegal_names(features: Features) -> Iterator[Problem]:
    for side, named in features.by_side.items():
        for name in named:
            if not is_feature_name(name):
                yield (
                    f"{side}.{name}",
                    "a feature's name is an input of the served model: letters, digits and _, no "
                    f"word of Python, not filter_... and none of {_listed(RESERVED_NAMES)}; give "
                    "the data's name as `column`",
                )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _kinds_of_other_sides(features: Features) -> Iterator[Problem]:
    for side, named in features.by_side.items():
        for name, feature in named.items():
            if feature.kind not in _KINDS[side]:
                expected = ", ".join(_KINDS[side])
                yield (
                    f"{side}.{name}.kind",
                    f"{feature.kind} is not for this side; expected one of {expected}",
                )
    for name in _aggregates(features.query):
        yield (
            f"query.{name}.aggregate",
            "is of the moment, not of the profile: put the feature under `features.context`",
        )


def _repeated_kinds(features: Features) -> Iterator[Problem]:
    for side, named in features.by_side.items():
        kinds = [feature.kind for feature in named.values()]
        for kind in ("id", "history"):
            if kinds.count(kind) > 1:
                yield side, f"has more than one {kind}"


def _empty_towers(features: Features) -> Iterator[Problem]:
    for side, tower in (
        ("query", {**features.query, **features.context}),
        ("candidate", features.candidate),
    ):
        if not tower:
            yield side, "is empty: a tower needs at least one feature"


def _histories_of_nothing(features: Features) -> Iterator[Problem]:
    if features.history is None:
        return
    name, history = features.history
    if features.candidate_id is None:
        yield (
            f"query.{name}",
            "a history needs an `id` feature on the candidate side to refer to",
        )
    fixed = {
        other
        for other, feature in features.candidate.items()
        if not isinstance(feature, Id) and not is_aggregate(feature)
    }
    for other in history.candidate_features:
        if other not in fixed:
            yield (
                f"query.{name}.candidate_features",
                f"{other} is no feature of the candidate side, or its id or an aggregate; expected "
                f"some of {_listed(fixed) or '(there are none)'}",
            )


def _repeated_names(features: Features) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for side, named in features.by_side.items():
        for name in named:
            if name in seen:
                yield (
                    f"{side}.{name}",
                    f"is also a {seen[name]} feature: rename one and give the data's name as its "
                    "`column`",
                )
            seen[name] = side

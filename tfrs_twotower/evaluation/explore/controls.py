"""What of a query can be turned on the page: profile and context, rules and filters."""

import datetime
import zoneinfo
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion
from tfrs_twotower.schema.features import (
    Boolean,
    Categorical,
    Feature,
    MultiCategorical,
    Number,
    Text,
    Timestamp,
)

MAX_OPTIONS = 200  # Of a select: the most frequent values.
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
A_MONDAY = datetime.date(2024, 1, 1)
DAY_S = 86_400
DAYS = (0, 1, 3, 7, 14, 30, 60, 90, 180, 365)


@dataclass(frozen=True)
class Control:
    """An input of a query, and what it may be.

    Attributes:
        name: Of the feature or of the optional input of `recommend`.
        label: For people.
        kind: `one` of the options or `some` of them; `steps`: one, in order; a `moment` of the
            parts of `feature`; a `number`; a `slider` or a `range` from `low` to `high`; `text`.
        neutral: The value that changes nothing; None: not given.
        options: Values to choose from.
        low: The smallest number.
        high: The largest.
        feature: Its description; None of a rule.
    """

    name: str
    label: str
    kind: Literal["one", "some", "moment", "number", "range", "slider", "steps", "text"]
    neutral: Any = None
    options: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    feature: Feature | None = None


def profile_controls(version: ExploredVersion) -> list[Control]:
    """Those of the features of the query side, ids and histories left out."""
    features = version.config.features.query
    return [one for name in features for one in _of_feature(version, name, features[name])]


def context_controls(version: ExploredVersion) -> list[Control]:
    """Those of the context."""
    features = version.config.features.context
    return [one for name in features for one in _of_feature(version, name, features[name])]


def rule_controls(version: ExploredVersion) -> list[Control]:
    """Those of the rules that the version's `recommend` takes."""
    return [one for one in _rules(version) if _is_taken(version, one)]


def unix_seconds(feature: Timestamp, hour: int | None, weekday: int | None) -> int | None:
    """A moment of an hour (0-23) and a weekday (0 = Monday) in the feature's time zone.

    Returns:
        Unix seconds; None where neither is given. What is not given is noon, or a Monday.
    """
    if hour is None and weekday is None:
        return None
    day = A_MONDAY + datetime.timedelta(days=weekday or 0)
    time = datetime.time(12 if hour is None else hour)
    zone = zoneinfo.ZoneInfo(feature.time_zone)
    return int(datetime.datetime.combine(day, time, zone).timestamp())


def rule_inputs(version: ExploredVersion, values: Mapping[str, Any]) -> dict[str, Any]:
    """The optional inputs of `recommend` of what was chosen; those that change nothing left out.

    Args:
        version: Whose `recommend` is asked.
        values: By the names of `rule_controls`; a range is a pair, a half-life is in days.
    """
    inputs: dict[str, Any] = {}
    for control in rule_controls(version):
        value = values.get(control.name, control.neutral)
        if value is None or value == control.neutral or value == [] or value == ():
            continue
        if control.kind == "range":
            low, high = value
            # Only what was moved: a candidate without the number meets no bound.
            if low > control.low:
                inputs[f"{control.name}_min"] = float(low)
            if high < control.high:
                inputs[f"{control.name}_max"] = float(high)
        elif control.name == "half_life_s":
            inputs["half_life_s"] = float(value) * DAY_S
        else:
            inputs[control.name] = list(value) if control.kind == "some" else value
    return inputs


def _of_feature(version: ExploredVersion, name: str, feature: Feature) -> Iterator[Control]:
    tokens = tuple(version.tokens.get(name, ())[:MAX_OPTIONS])
    label = name.replace("_", " ")
    match feature:
        case Timestamp():
            yield Control(name, label, "moment", feature=feature)
        case Boolean():
            yield Control(name, label, "one", options=(True, False), feature=feature)
        case Categorical():
            yield Control(name, label, "one", options=tokens, feature=feature)
        case MultiCategorical():
            yield Control(name, label, "some", options=tokens, feature=feature)
        case Number():
            yield Control(name, label, "number", feature=feature)
        case Text():
            yield Control(name, label, "text", feature=feature)


def _rules(version: ExploredVersion) -> Iterator[Control]:
    rules, candidates = version.config.rules, version.candidates
    for name in rules.filters:
        label = name.replace("_", " ")
        options = _values(version, name)
        yield Control(f"filter_{name}_any", f"only {label}", "some", options=options)
        yield Control(f"filter_{name}_none", f"no {label}", "some", options=options)
    for name in rules.ranges:
        numbers = candidates[name].dropna().to_numpy(float)
        if len(numbers) and numbers.min() < numbers.max():
            low, high = float(numbers.min()), float(numbers.max())
            label = name.replace("_", " ")
            yield Control(f"filter_{name}", label, "range", (low, high), low=low, high=high)
    if rules.category:
        label = f"most of one {rules.category.replace('_', ' ')}"
        yield Control("max_per_category", label, "steps", 0, (0, 1, 2, 3, 5, 10))
    yield Control("half_life_s", "half-life, days", "steps", 0, DAYS)
    yield Control("mmr_lambda", "weight of score against variety", "slider", 1.0, low=0.0, high=1.0)
    yield Control("min_score", "lowest score", "slider", -1.0, low=-1.0, high=1.0)


def _is_taken(version: ExploredVersion, control: Control) -> bool:
    name = f"{control.name}_min" if control.kind == "range" else control.name
    return name in version.rule_inputs


def _values(version: ExploredVersion, name: str) -> tuple[str, ...]:
    """The most frequent values of an attribute, as the filters of a request name them."""
    if isinstance(version.config.candidate_features.get(name), Boolean):
        return ("true", "false")
    counts: Counter[str] = Counter()
    for value in version.candidates[name]:
        parts = value if isinstance(value, list | np.ndarray) else [value]
        counts.update(str(part) for part in parts if part is not None and part == part)
    ordered = sorted(counts, key=lambda one: (-counts[one], one))
    return tuple(ordered[:MAX_OPTIONS])

"""`twotower.yaml`: one pydantic model a section, every default stated once."""

import hashlib
import json
import re
from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from tfrs_twotower.schema.features import (
    AnyFeature,
    Feature,
    History,
    Id,
    Strict,
    Timestamp,
)

SPLITS = ("train", "validation", "test")

# Names of the records and of the `recommend` and `score` signatures that no feature may take.
RESERVED_NAMES = frozenset(
    ("query_id", "query_row", "candidate_id", "candidate_ids", "candidate_row", "label", "weight")
    + ("timestamp_s", "k", "exclude_ids", "allow_ids", "half_life_s", "now_s", "mmr_lambda")
    + ("max_per_category", "min_score")
)


class Columns(Strict):
    """Which column of the data plays which role.

    The id columns have the same name in the interactions, candidates and queries files.
    """

    query_id: str = "user_id"
    candidate_id: str = "item_id"
    timestamp: str | None = Field(None, description="Unix seconds, UTC; null: data without times.")
    order: str | None = Field(
        None, description="Integer; orders events of one query and equal time."
    )
    event: str | None = Field(None, description="Event type, named in `labels.events`.")
    value: str | None = Field(None, description="Rating or thumbs, read by `labels`.")
    split: str | None = Field(None, description="Holds train, validation or test (pre-split data).")
    title: str | None = Field(None, description="Of the candidates file: what people read.")
    available_from: str | None = Field(None, description="Of the candidates file: Unix seconds.")


class Label(Strict):
    """What an event says: a positive (1) or an explicit negative (0), and how loudly."""

    label: Literal[0, 1] = 1
    weight: PositiveFloat = 1.0


class Labels(Strict):
    """How events become labelled, weighted examples.

    Without rules every event is a positive of weight 1. An event type and a value may both have
    a rule: the value, where there is one, decides the label, and the weights multiply.
    """

    events: dict[str, Label] = Field(
        default_factory=dict, description="By `columns.event`; an event type without rule: reject."
    )
    values: dict[float, Label] = Field(
        default_factory=dict, description="By exact `columns.value`, for thumbs; others: reject."
    )
    positive_from: float | None = Field(
        None, description="Values from here on are positives, lower ones explicit negatives."
    )

    @model_validator(mode="after")
    def _one_rule_for_values(self) -> Self:
        if self.values and self.positive_from is not None:
            raise ValueError("`values` and `positive_from` both rule the value column: keep one")
        return self


class Features(Strict):
    """Features by side; the key is the feature's name and its input in the SavedModels.

    `query`: known of the query before the moment (queries file). `context`: of the moment (the
    interaction row). `candidate`: of the candidates file.
    """

    query: dict[str, AnyFeature] = Field(default_factory=dict)
    context: dict[str, AnyFeature] = Field(default_factory=dict)
    candidate: dict[str, AnyFeature] = Field(default_factory=dict)


class Split(Strict):
    """Which events train, validate and test.

    `time`: by quantile of events, events of the same second together. `dates`: from the given
    days (00:00 UTC) on. `leave_last_out`: a query's last event tests, the one before validates;
    queries with fewer than three events train only. `column`: as `columns.split` says. `random`:
    by hash of query, candidate and time, which leaks the future: only for protocols that ask.
    """

    by: Literal["time", "dates", "leave_last_out", "column", "random"] = "time"
    validation: float = Field(0.1, ge=0.0, lt=1.0, description="Share of events (time, random).")
    test: float = Field(0.1, ge=0.0, lt=1.0, description="Share of events (time, random).")
    validation_from: date | None = Field(None, description="First day of validation (dates).")
    test_from: date | None = Field(None, description="First day of test (dates).")
    hold_out: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of train moved to validation by hash (column)."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation + self.test >= 1.0:
            raise ValueError("`validation` + `test` must leave a share for train (below 1.0)")
        if self.by == "dates":
            if self.validation_from is None or self.test_from is None:
                raise ValueError("`by: dates` needs `validation_from` and `test_from`")
            if self.validation_from > self.test_from:
                raise ValueError("`validation_from` must not come after `test_from`")
        return self


class Tower(Strict):
    """Layers between the concatenated features and the output of one tower."""

    hidden_units: list[PositiveInt] = Field(default_factory=list)
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)


class Towers(Strict):
    """Both towers end in an L2-normalised vector of `embedding_dim`: a score is a cosine."""

    embedding_dim: PositiveInt = 32
    query: Tower = Tower()
    candidate: Tower = Tower()


class Loss(Strict):
    """In-batch softmax: the other candidates of the batch are the negatives."""

    temperature: PositiveFloat = Field(0.1, description="Divides the cosine before the softmax.")
    logq_correction: bool = Field(True, description="Subtract log q of each candidate.")
    mask_accidental_hits: bool = Field(
        True, description="A negative that is the query's own positive does not count."
    )


class Training(Strict):
    """How Keras trains; the best epoch by `metric` on the validation split is kept."""

    epochs: PositiveInt = 20
    batch_size: int = Field(1024, ge=2)
    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 0.003
    seed: int = 42
    metric: str = Field("recall_at_10", pattern=r"^(recall|hit_rate|ndcg)_at_[1-9][0-9]*$|^mrr$")
    patience: PositiveInt = Field(3, description="Epochs without a better metric before stopping.")


class Index(Strict):
    """The ScaNN index inside `retrieval`; brute force below `brute_force_below` candidates."""

    brute_force_below: int = Field(20_000, ge=0)
    num_leaves: PositiveInt | None = Field(None, description="Default: sqrt of the corpus size.")
    leaves_to_search: PositiveInt | None = Field(None, description="Default: a tenth of the leaves")
    reorder: PositiveInt = Field(500, description="Candidates rescored exactly.")
    dimensions_per_block: PositiveInt = 2
    anisotropic_threshold: NonNegativeFloat = 0.2


class Export(Strict):
    """What the SavedModels answer."""

    default_k: PositiveInt = Field(10, description="Answers of `serving_default`.")
    max_k: PositiveInt = Field(1000, description="The largest `k` a request may ask.")
    attributes: list[str] = Field(
        default_factory=list, description="Columns of the candidates file shown with answers."
    )

    @model_validator(mode="after")
    def _default_within_max(self) -> Self:
        if self.default_k > self.max_k:
            raise ValueError(f"`default_k` ({self.default_k}) is above `max_k` ({self.max_k})")
        return self


_SIDE_KINDS = {
    "query": "id categorical multi_categorical text number boolean vector timestamp history",
    "context": "categorical multi_categorical text number boolean vector timestamp",
    "candidate": "id categorical multi_categorical text number boolean vector timestamp",
}


def _is_feature_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
        and name not in RESERVED_NAMES
        and not name.startswith("filter_")
    )


class Config(Strict):
    """All of `twotower.yaml`."""

    columns: Columns = Columns()
    labels: Labels = Labels()
    features: Features = Features()
    split: Split = Split()
    towers: Towers = Towers()
    loss: Loss = Loss()
    training: Training = Training()
    index: Index = Index()
    export: Export = Export()

    @model_validator(mode="before")
    @classmethod
    def _default_features(cls, data: Any) -> Any:
        """Ids and a history, for a config that names no feature."""
        if not isinstance(data, dict) or data.get("features"):
            return data
        columns = data.get("columns") or {}
        if not isinstance(columns, dict):
            return data
        query, candidate = (
            columns.get("query_id", "user_id"),
            columns.get("candidate_id", "item_id"),
        )
        return {
            **data,
            "features": {
                "query": {
                    query if _is_feature_name(query) else "query": {"kind": "id"},
                    "history": {"kind": "history"},
                },
                "candidate": {
                    candidate if _is_feature_name(candidate) else "candidate": {"kind": "id"}
                },
            },
        }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_features()
        columns, split, labels = self.columns, self.split, self.labels
        if split.by in ("time", "dates") and columns.timestamp is None:
            raise ValueError(f"`split.by: {split.by}` needs `columns.timestamp`")
        if split.by == "leave_last_out" and columns.timestamp is None and columns.order is None:
            raise ValueError(
                "`split.by: leave_last_out` needs `columns.timestamp` or `columns.order`"
            )
        if split.by == "column" and columns.split is None:
            raise ValueError("`split.by: column` needs `columns.split`")
        if labels.events and columns.event is None:
            raise ValueError("`labels.events` needs `columns.event`")
        if (labels.values or labels.positive_from is not None) and columns.value is None:
            raise ValueError("`labels.values` and `labels.positive_from` need `columns.value`")
        return self

    def _check_features(self) -> None:
        sides = {side: getattr(self.features, side) for side in _SIDE_KINDS}
        for side, features in sides.items():
            for name, feature in features.items():
                where = f"`features.{side}.{name}`"
                if not _is_feature_name(name):
                    raise ValueError(
                        f"{where}: a feature's name is an input of the served model: letters, "
                        "digits and _, not filter_... and none of "
                        f"{', '.join(sorted(RESERVED_NAMES))}; give the data's name as `column`"
                    )
                if feature.kind not in _SIDE_KINDS[side].split():
                    raise ValueError(
                        f"{where}: kind {feature.kind} is not for this side; "
                        f"expected one of {_SIDE_KINDS[side].replace(' ', ', ')}"
                    )
            for kind in (Id, History):
                if sum(isinstance(feature, kind) for feature in features.values()) > 1:
                    raise ValueError(f"`features.{side}` has more than one {kind.__name__.lower()}")
        for side in ("query", "candidate"):
            if not sides[side] and not (side == "query" and sides["context"]):
                raise ValueError(f"`features.{side}` is empty: a tower needs at least one feature")
        for side, other in (("query", "context"), ("query", "candidate"), ("context", "candidate")):
            if both := sides[side].keys() & sides[other].keys():
                raise ValueError(
                    f"`{min(both)}` is a {side} and a {other} feature: rename one and name the "
                    "data's column as its `column`"
                )
        if self.history and self.candidate_id_feature is None:
            raise ValueError("a history needs an `id` feature on the candidate side to refer to")

    @property
    def query_features(self) -> dict[str, Feature]:
        """Inputs of the query tower: the query's features, then the context's."""
        return {**self.features.query, **self.features.context}

    @property
    def candidate_features(self) -> dict[str, Feature]:
        """Inputs of the candidate tower."""
        return dict(self.features.candidate)

    @property
    def history(self) -> History | None:
        """The history feature, if there is one."""
        return next((f for f in self.features.query.values() if isinstance(f, History)), None)

    @property
    def candidate_id_feature(self) -> tuple[str, Id] | None:
        """Name and feature of the candidate's id, if the candidate tower reads it."""
        named = self.features.candidate.items()
        return next(((name, f) for name, f in named if isinstance(f, Id)), None)

    @property
    def has_order(self) -> bool:
        """Whether events have a before and an after; without, histories leave the target out."""
        return self.columns.timestamp is not None or self.columns.order is not None

    def column_of(self, side: str, name: str) -> str | None:
        """The data's column of a feature; a history has none."""
        feature = getattr(self.features, side)[name]
        if isinstance(feature, Id):
            return getattr(self.columns, f"{side}_id")
        if isinstance(feature, History):
            return None
        if isinstance(feature, Timestamp) and feature.column is None and side == "context":
            return self.columns.timestamp or name
        return feature.column or name

    def record_schema(self) -> dict[str, Any]:
        """What the prepared records depend on; settings of towers and training are left out."""
        schema = self.model_dump(mode="json", include={"columns", "labels", "split"})
        schema["features"] = {
            side: {
                name: feature.model_dump(mode="json", exclude=set(feature.tower_only))
                for name, feature in getattr(self.features, side).items()
            }
            for side in _SIDE_KINDS
        }
        schema["export"] = {"attributes": self.export.attributes}
        return schema

    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of `record_schema`."""
        return fingerprint(self.record_schema())


def fingerprint(record_schema: dict[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of a record schema."""
    canonical = json.dumps(record_schema, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(
    left: dict[str, Any], right: dict[str, Any], path: str = ""
) -> list[tuple[str, Any, Any]]:
    """Where two nested mappings differ, as (path, left value, right value), None if absent."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key), right.get(key)
        where = f"{path}.{key}" if path else str(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, where)
        elif a != b:
            found.append((where, a, b))
    return found

"""`twotower.yaml`: one pydantic model a section, every default stated once."""

import hashlib
import json
import keyword
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tfrs_twotower.schema.features import (
    Aggregate,
    AnyFeature,
    Feature,
    History,
    Id,
    NamedFeature,
    Number,
    Timestamp,
)
from tfrs_twotower.schema.loss import Loss
from tfrs_twotower.schema.strict import Strict

F = TypeVar("F", bound=Feature)

SPLITS = ("train", "validation", "test")

# Names of the records and of the `recommend` and `score` signatures that no feature may take.
RESERVED_NAMES = frozenset(
    ("query_id", "query_row", "candidate_id", "candidate_ids", "candidate_row", "label", "weight")
    + ("timestamp_s", "k", "exclude_ids", "allow_ids", "half_life_s", "now_s", "mmr_lambda")
    + ("max_per_category", "min_score", "self", "user_embedding")
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
    unless_positive_within_s: PositiveInt | None = Field(
        None,
        description="Of an event type with label 0, such as an impression: leave it out where the "
        "query has a positive of the candidate so many seconds before or after it.",
    )

    @model_validator(mode="after")
    def _only_negatives_give_way(self) -> Self:
        if self.label == 1 and self.unless_positive_within_s is not None:
            raise ValueError("`unless_positive_within_s` is for `label: 0`")
        return self


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
        if any(rule.unless_positive_within_s for rule in self.values.values()):
            raise ValueError("`unless_positive_within_s` is for `events`, not for `values`")
        return self

    @property
    def has_windows(self) -> bool:
        """Whether some negatives give way to positives near them."""
        return any(rule.unless_positive_within_s for rule in self.events.values())


class Filters(Strict):
    """Which sound events are left out, before the split.

    First the negatives of `labels.events` that give way to a positive, then duplicates, then what
    is rare. The rules read the whole log, as protocols do that ask for them: whether an event of
    train stays may depend on later ones, what it says never does. Candidates of the candidates file
    stay in the corpus, and queries keep their rows, whatever becomes of their events.
    """

    duplicates: Literal["all", "first", "last"] = Field(
        "all", description="Which to keep of the events of one query, candidate and label."
    )
    min_per_query: NonNegativeInt = Field(
        0, description="Positives of a query; with fewer, all its events are left out."
    )
    min_per_candidate: NonNegativeInt = Field(
        0, description="Positives of a candidate; with fewer, all its events are left out."
    )
    k_core: bool = Field(
        False,
        description="Count again what is left until both minima hold in it; false: count once, in "
        "the whole log.",
    )

    @model_validator(mode="after")
    def _core_of_something(self) -> Self:
        if self.k_core and not self.has_minima:
            raise ValueError("`k_core` needs `min_per_query` or `min_per_candidate`")
        return self

    @property
    def has_minima(self) -> bool:
        """Whether queries or candidates need a number of positives."""
        return self.min_per_query > 0 or self.min_per_candidate > 0


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
    queries with fewer than three events train only. `temporal_user`: of the `n` events of a query,
    in their order, the last `floor(test * n)` test and the `floor(validation * n)` before them
    validate. `column`: as `columns.split` says. `random`:
    by hash of query, candidate and time, which leaks the future: only for protocols that ask.
    """

    by: Literal["time", "dates", "leave_last_out", "temporal_user", "column", "random"] = "time"
    validation: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of events (time, temporal_user, random)."
    )
    test: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share of events (time, temporal_user, random)."
    )
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

    What the moment does (without context features all modes are the same):

    * `user_tower`: context is a part of the query tower's input;
    * `trilinear`: score = dot(query * context, candidate), elementwise; the query's half can be
      computed ahead and joined with the moment later;
    * `scoring_layer`: score = linear([query, candidate, context]), or a network with hidden layers
      of `scoring_hidden_units`. The linear form is a sum: for everybody and every moment it ranks
      the candidates alike. No index of vectors can search by it.
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
    context_mode: Literal["user_tower", "trilinear", "scoring_layer"] = "user_tower"
    scoring_hidden_units: list[PositiveInt] = Field(
        default_factory=list, description="Of scoring_layer."
    )

    @model_validator(mode="after")
    def _settings_of_the_mode(self) -> Self:
        if self.scoring_hidden_units and self.context_mode != "scoring_layer":
            raise ValueError("`scoring_hidden_units` need `context_mode: scoring_layer`")
        if self.context != Tower() and self.context_mode == "user_tower":
            raise ValueError(
                "`context` is the tower of `context_mode: trilinear` and `scoring_layer`; with "
                "user_tower the context goes through `query`"
            )
        return self


class Training(Strict):
    """How Keras trains; the best epoch by `metric` on the validation split is kept."""

    epochs: PositiveInt = 20
    batch_size: int = Field(1024, ge=2)
    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 0.003
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="Of the learning rate; cosine: falls to 0 over `epochs`, which are then as "
        "many as the training is meant to take.",
    )
    seed: int = Field(42, ge=0, le=1_000_000_000)
    metric: str = Field("recall_at_10", pattern=r"^(recall|hit_rate|ndcg)_at_[1-9][0-9]*$|^mrr$")
    patience: PositiveInt = Field(3, description="Epochs without a better metric before stopping.")
    distribution: Literal["one_device", "mirrored", "multi_worker"] = Field(
        "one_device",
        description="mirrored: all GPUs of the machine; multi_worker: the machines that the "
        "environment variable TF_CONFIG names. `batch_size` is that of all together.",
    )


class Range(Strict):
    """Numbers from `low` to `high`, whole ones where both are; `log`: small ones as often."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("expected `low` below `high`, and `low` above 0 with `log: true`")
        return self


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
        description="Search for measures, where they are not given, that find this share of the "
        "exact answer; null: the defaults.",
    )
    at: PositiveInt = Field(100, description="The k that the measures suit; larger ones widen.")


class Rules(Strict):
    """Which columns of the candidates the rules of `recommend` read.

    A column is a candidate feature, one of `export.attributes`, or `available_from`.
    """

    filters: list[str] = Field(
        default_factory=list,
        description="Give the inputs `filter_<name>_any` and `filter_<name>_none`.",
    )
    category: str | None = Field(None, description="One value a candidate; of `max_per_category`.")
    timestamp: str | None = Field(
        None,
        description="Unix seconds, of `half_life_s`; default: `available_from`, where there is one",
    )

    @property
    def columns(self) -> list[str]:
        """Every column that is named."""
        named = [*self.filters, self.category, self.timestamp]
        return [name for name in named if name is not None]


class Export(Strict):
    """What the SavedModels answer."""

    default_k: PositiveInt = Field(10, description="Answers of `serving_default`.")
    max_k: PositiveInt = Field(1000, description="The largest `k` a request may ask.")
    retrieval: bool = Field(
        True, description="Whether to make `retrieval`, by ScaNN, beside `retrieval_exact`."
    )
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


_RULE_KINDS = {
    "filters": "categorical multi_categorical boolean",
    "category": "categorical boolean",
    "timestamp": "timestamp",
}


def _is_feature_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None
        and name not in RESERVED_NAMES
        and not keyword.iskeyword(name)
        and not name.startswith("filter_")
    )


def _only(kind: type[F], features: Mapping[str, Feature]) -> NamedFeature[F] | None:
    found = (NamedFeature(name, f) for name, f in features.items() if isinstance(f, kind))
    return next(found, None)


def _aggregates(features: Mapping[str, Feature]) -> dict[str, Aggregate]:
    return {
        name: feature.aggregate
        for name, feature in features.items()
        if isinstance(feature, Number) and feature.aggregate is not None
    }


class Config(Strict):
    """All of `twotower.yaml`."""

    columns: Columns = Columns()
    labels: Labels = Labels()
    features: Features = Features()
    filters: Filters = Filters()
    split: Split = Split()
    towers: Towers = Towers()
    loss: Loss = Loss()
    training: Training = Training()
    index: Index = Index()
    rules: Rules = Rules()
    export: Export = Export()
    search: dict[str, Range | list[Any]] = Field(
        default_factory=dict,
        description="What `twotower tune` tries by path.to.key, a range or a list of values: "
        "{training.learning_rate: {low: 0.0003, high: 0.03, log: true}, towers.embedding_dim: "
        "[16, 32, 64]}; default: these, and `loss.temperature` from 0.03 to 0.3 "
        "(margin: `loss.margin` from 0.1 to 1).",
    )

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
        self._check_context_mode()
        self._check_rules()
        self._check_aggregates()
        columns, split, labels = self.columns, self.split, self.labels
        if columns.query_id == columns.candidate_id:
            raise ValueError("`columns.query_id` and `columns.candidate_id` are the same column")
        if split.by in ("time", "dates") and columns.timestamp is None:
            raise ValueError(f"`split.by: {split.by}` needs `columns.timestamp`")
        if split.by in ("leave_last_out", "temporal_user") and not self.has_order:
            raise ValueError(f"`split.by: {split.by}` needs `columns.timestamp` or `columns.order`")
        if self.filters.duplicates != "all" and not self.has_order:
            raise ValueError(
                f"`filters.duplicates: {self.filters.duplicates}` needs `columns.timestamp` or "
                "`columns.order`"
            )
        if labels.has_windows and columns.timestamp is None:
            raise ValueError(
                "`unless_positive_within_s` of `labels.events` needs `columns.timestamp`"
            )
        if split.by == "column" and columns.split is None:
            raise ValueError("`split.by: column` needs `columns.split`")
        if labels.events and columns.event is None:
            raise ValueError("`labels.events` needs `columns.event`")
        if (labels.values or labels.positive_from is not None) and columns.value is None:
            raise ValueError("`labels.values` and `labels.positive_from` need `columns.value`")
        in_batch = self.training.batch_size - 1 + self.loss.uniform_negatives
        if self.loss.hard_negatives > in_batch:
            raise ValueError(
                f"`loss.hard_negatives` ({self.loss.hard_negatives}) is above the {in_batch} "
                "negatives that a query has in a batch (`training.batch_size` - 1 + "
                "`loss.uniform_negatives`)"
            )
        return self

    def _check_features(self) -> None:
        sides = {side: getattr(self.features, side) for side in _SIDE_KINDS}
        for side, features in sides.items():
            for name, feature in features.items():
                where = f"`features.{side}.{name}`"
                if not _is_feature_name(name):
                    raise ValueError(
                        f"{where}: a feature's name is an input of the served model: letters, "
                        "digits and _, no word of Python, not filter_... and none of "
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
        if self.history and self.candidate_id is None:
            raise ValueError("a history needs an `id` feature on the candidate side to refer to")
        if self.history is None or not self.history.feature.is_ordered:
            return
        if not self.has_order:
            raise ValueError(
                f"`encoder: {self.history.feature.encoder}` reads events in their order: give "
                "`columns.timestamp` or `columns.order`, or take `encoder: mean`"
            )
        self._check_ordered_history(self.history.feature)

    def _check_ordered_history(self, history: History) -> None:
        if self.training.distribution != "one_device":
            raise ValueError(
                f"`encoder: {history.encoder}` is trained on `training.distribution: one_device`: "
                "the examples of one past cannot be dealt to several"
            )
        assert self.candidate_id is not None
        name, candidate_id = self.candidate_id
        width = candidate_id.embedding_dim or self.towers.embedding_dim
        if history.heads and width % history.heads:
            raise ValueError(
                f"`heads` ({history.heads}) of the history must divide the width of "
                f"`features.candidate.{name}` ({width})"
            )

    def _check_context_mode(self) -> None:
        mode = self.context_mode
        if mode in ("trilinear", "scoring_layer") and not self.features.query:
            raise ValueError(
                f"`towers.context_mode: {mode}` needs features of the query beside the context's; "
                "take user_tower"
            )
        if mode != "scoring_layer":
            return
        if self.loss.kind != "bce":
            raise ValueError(
                "`towers.context_mode: scoring_layer` needs `loss.kind: bce`: a softmax over the "
                "candidates of one query gives the query's share of a sum no gradient"
            )
        if self.loss.mined_negatives:
            raise ValueError(
                "`loss.mined_negatives` are found by dot product, which `towers.context_mode: "
                "scoring_layer` does not score by"
            )
        if self.export.retrieval:
            raise ValueError(
                "`towers.context_mode: scoring_layer` scores pairs by a layer, which no index of "
                "vectors such as ScaNN's can search: set `export.retrieval: false` and serve "
                "`retrieval_exact`, or take trilinear"
            )

    def _check_rules(self) -> None:
        known = {*self.export.attributes, *self.features.candidate}
        known |= {"available_from"} if self.columns.available_from else set()
        for role in ("filters", "category", "timestamp"):
            named = getattr(self.rules, role)
            for name in named if role == "filters" else [named] if named else []:
                feature = self.features.candidate.get(name)
                where = f"`rules.{role}`: {name}"
                if name not in known or isinstance(feature, Id):
                    raise ValueError(
                        f"{where} is no candidate feature and none of `export.attributes`"
                    )
                if feature is not None and feature.kind not in _RULE_KINDS[role].split():
                    raise ValueError(
                        f"{where} is a feature of kind {feature.kind}; expected one of "
                        f"{_RULE_KINDS[role].replace(' ', ', ')}"
                    )
                if role == "filters" and not name.isidentifier():
                    raise ValueError(
                        f"{where}: the name becomes a part of an input of the served model: "
                        "letters, digits and _"
                    )
        if len(set(self.rules.filters)) < len(self.rules.filters):
            raise ValueError("`rules.filters` names an attribute twice")

    def _check_aggregates(self) -> None:
        for name, feature in self.features.query.items():
            if isinstance(feature, Number) and feature.aggregate is not None:
                raise ValueError(
                    f"`features.query.{name}`: an `aggregate` is of the moment, not of the "
                    "profile: put it under `features.context`"
                )
        found = self.query_aggregates | self.candidate_aggregates
        if not found:
            return
        if self.columns.timestamp is None:
            raise ValueError(f"the `aggregate` of `{min(found)}` needs `columns.timestamp`")
        for name, aggregate in found.items():
            if aggregate.what == "mean" and self.columns.value is None:
                raise ValueError(f"the `aggregate` of `{name}`, a mean, needs `columns.value`")
        drawn = self.loss.draws_from_corpus
        if self.candidate_aggregates and drawn is not None:
            raise ValueError(
                f"`loss.{drawn}` are drawn from the corpus, whose aggregates "
                f"(`features.candidate.{min(self.candidate_aggregates)}`) are of the end of train, "
                f"later than the example: set `loss.{drawn}: 0`, or take the `aggregate` out"
            )

    @property
    def rules_of_corpus(self) -> Rules:
        """`rules` with the default of `timestamp` resolved."""
        if self.rules.timestamp is None and self.columns.available_from is not None:
            return self.rules.model_copy(update={"timestamp": "available_from"})
        return self.rules

    @property
    def query_features(self) -> dict[str, Feature]:
        """Inputs of the query tower: the query's features, then the context's."""
        return {**self.features.query, **self.features.context}

    @property
    def candidate_features(self) -> dict[str, Feature]:
        """Inputs of the candidate tower."""
        return dict(self.features.candidate)

    @property
    def history(self) -> NamedFeature[History] | None:
        """The history, if the query tower reads one."""
        return _only(History, self.features.query)

    @property
    def query_id(self) -> NamedFeature[Id] | None:
        """The query's id, if the query tower reads it."""
        return _only(Id, self.features.query)

    @property
    def candidate_id(self) -> NamedFeature[Id] | None:
        """The candidate's id, if the candidate tower reads it."""
        return _only(Id, self.features.candidate)

    @property
    def query_aggregates(self) -> dict[str, Aggregate]:
        """What is found of the query before each event, by feature."""
        return _aggregates(self.features.context)

    @property
    def candidate_aggregates(self) -> dict[str, Aggregate]:
        """What is found of the candidate before each event, by feature."""
        return _aggregates(self.features.candidate)

    @property
    def has_means(self) -> bool:
        """Whether an aggregate reads `columns.value`."""
        found = (self.query_aggregates | self.candidate_aggregates).values()
        return any(aggregate.what == "mean" for aggregate in found)

    @property
    def event_features(self) -> dict[str, Feature]:
        """What an event holds beside its ids: the context, and the candidate's aggregates."""
        candidate = self.features.candidate
        return {
            **self.features.context,
            **{name: candidate[name] for name in self.candidate_aggregates},
        }

    @property
    def context_mode(self) -> str | None:
        """How the context comes in; None where there is none to come in."""
        return self.towers.context_mode if self.features.context else None

    @property
    def ranks_alike_for_all(self) -> bool:
        """Whether a score is the sum of the query's, the moment's and the candidate's share."""
        is_layer = self.context_mode == "scoring_layer"
        return is_layer and not self.towers.scoring_hidden_units

    @property
    def has_order(self) -> bool:
        """Whether events have a before and an after; without, histories leave the target out."""
        return self.columns.timestamp is not None or self.columns.order is not None

    @property
    def tells_target_by_its_absence(self) -> bool:
        """Whether a query's id can learn all its positives, and its history lacks the target."""
        reads_both = self.query_id is not None and self.history is not None
        return reads_both and not self.has_order

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
        schema = self.model_dump(mode="json", include={"columns", "labels", "filters", "split"})
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

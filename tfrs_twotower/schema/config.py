"""`twotower.yaml`: all sections in one `Config`, and properties of several sections."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from tfrs_twotower.schema import combinations
from tfrs_twotower.schema.columns import Columns
from tfrs_twotower.schema.export import Export
from tfrs_twotower.schema.features import Aggregate, Feature, History, Id, NamedFeature, Timestamp
from tfrs_twotower.schema.files import Files
from tfrs_twotower.schema.filters import Filters
from tfrs_twotower.schema.index import Index
from tfrs_twotower.schema.labels import Labels
from tfrs_twotower.schema.loss import Loss
from tfrs_twotower.schema.record_schema import fingerprint
from tfrs_twotower.schema.rules import Rules
from tfrs_twotower.schema.search import Range
from tfrs_twotower.schema.sides import Features, is_feature_name
from tfrs_twotower.schema.split import Split
from tfrs_twotower.schema.strict import Problem, Strict
from tfrs_twotower.schema.towers import ContextMode, Towers
from tfrs_twotower.schema.training import Training


class Config(Strict):
    """All of `twotower.yaml`."""

    files: Files = Files()
    columns: Columns = Columns()
    labels: Labels = Labels()
    features: Features
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
        description="What `twotower tune` tries for each path.to.key, a range or a list of values: "
        "{training.learning_rate: {low: 0.0003, high: 0.03, log: true}, towers.embedding_dim: "
        "[16, 32, 64]}. Default: these, and `loss.temperature` from 0.03 to 0.3 "
        "(for margin: `loss.margin` from 0.1 to 1).",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_features(cls, data: Any) -> Any:
        """Ids and a history, for a config that names no feature."""
        if not isinstance(data, dict) or data.get("features"):
            return data
        columns = data.get("columns")
        columns = columns if isinstance(columns, dict) else {}
        query = _name_after(columns.get("query_id", "user_id"), "query")
        candidate = _name_after(columns.get("candidate_id", "item_id"), "candidate")
        return {
            **data,
            "features": {
                "query": {query: {"kind": "id"}, "history": {"kind": "history"}},
                "candidate": {candidate: {"kind": "id"}},
            },
        }

    def problems(self) -> Iterator[Problem]:
        """Settings of different sections that cannot go together."""
        yield from combinations.split_without_column(self.split, self.columns)
        yield from combinations.duplicates_without_order(self.filters, self.columns)
        yield from combinations.labels_without_column(self.labels, self.columns)
        yield from combinations.ordered_history(
            self.features, self.columns, self.towers, self.training
        )
        yield from combinations.context_mode(self.features, self.towers, self.loss, self.export)
        yield from combinations.rule_columns(self.rules, self.export, self.features, self.columns)
        yield from combinations.aggregates(self.features, self.columns, self.loss)
        yield from combinations.hard_negatives(self.loss, self.training)
        yield from combinations.graph_smoothing(self.features, self.training)

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
        return self.features.history

    @property
    def history_candidate_features(self) -> dict[str, Feature]:
        """The id and the features of a history's candidates; empty where it reads ids alone."""
        return self.features.history_candidate_features

    @property
    def history_vocabulary(self) -> str | None:
        """The feature of whose vocabulary the rows of a history are; None without a history."""
        owner = self.history if self.history_candidate_features else self.candidate_id
        return owner.name if self.history and owner else None

    @property
    def query_id(self) -> NamedFeature[Id] | None:
        """The query's id, if the query tower reads it."""
        return self.features.query_id

    @property
    def candidate_id(self) -> NamedFeature[Id] | None:
        """The candidate's id, if the candidate tower reads it."""
        return self.features.candidate_id

    @property
    def query_aggregates(self) -> dict[str, Aggregate]:
        """Aggregates of the query's earlier events, by feature."""
        return self.features.query_aggregates

    @property
    def candidate_aggregates(self) -> dict[str, Aggregate]:
        """Aggregates of the candidate's earlier events, by feature."""
        return self.features.candidate_aggregates

    @property
    def has_means(self) -> bool:
        """Whether an aggregate reads `columns.value`."""
        found = (self.query_aggregates | self.candidate_aggregates).values()
        return any(aggregate.what == "mean" for aggregate in found)

    @property
    def event_features(self) -> dict[str, Feature]:
        """Features of an event: the context, and the candidate's aggregates."""
        candidate = self.features.candidate
        return {
            **self.features.context,
            **{name: candidate[name] for name in self.candidate_aggregates},
        }

    @property
    def context_mode(self) -> ContextMode | None:
        """How context features join the query; None where there are none."""
        return self.towers.context_mode if self.features.context else None

    @property
    def ranking_is_query_independent(self) -> bool:
        """Whether a score is a sum of shares of the query, the context and the candidate."""
        is_layer = self.context_mode == "scoring_layer"
        return is_layer and not self.towers.scoring_hidden_units

    @property
    def has_order(self) -> bool:
        """Whether events have a before and an after; without, histories leave the target out."""
        return self.columns.has_order

    @property
    def history_leaks_target(self) -> bool:
        """Whether the query's id can learn all positives, of which the history lacks the target."""
        reads_both = self.query_id is not None and self.history is not None
        return reads_both and not self.has_order

    @property
    def resolved_rules(self) -> Rules:
        """`rules` with the default of `timestamp`."""
        if self.rules.timestamp is None and self.columns.available_from is not None:
            return self.rules.model_copy(update={"timestamp": "available_from"})
        return self.rules

    def with_batch_size(self, default: int) -> Self:
        """The config with `training.batch_size`, `default` where it is left out."""
        batch_size = self.training.batch_size or default
        training = self.training.model_copy(update={"batch_size": batch_size})
        return self.model_copy(update={"training": training})

    def column_of(self, side: str, name: str) -> str | None:
        """The data's column of a feature; a history has none.

        Args:
            side: query, context or candidate.
            name: Of a feature of that side.
        """
        feature = self.features.by_side[side][name]
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
                for name, feature in features.items()
            }
            for side, features in self.features.by_side.items()
        }
        schema["export"] = {"attributes": self.export.attributes}
        if self.files != Files():  # As in folders of before there was another.
            schema["files"] = self.files.model_dump(mode="json")
        if self.history and not self.history.feature.candidate_features:  # As in folders of before.
            del schema["features"]["query"][self.history.name]["candidate_features"]
        if self.columns.time_format is None:  # As in folders of before there was another.
            del schema["columns"]["time_format"]
        if self.split.corpus == "train":  # As in folders of before there was another.
            del schema["split"]["corpus"]
        if not self.split.gap_s:  # As in folders of before there was one.
            del schema["split"]["gap_s"]
        return schema

    def training_schema(self) -> dict[str, Any]:
        """What a run depends on; what only a search or an export reads is left out."""
        of_rules = set(Rules.model_fields) - {"exclude_known"}  # Which validation reads.
        of_export = set(Export.model_fields) - {"attributes"}
        return self.model_dump(
            mode="json",
            exclude={
                **{"files": True, "search": True, "index": True},
                **{"rules": of_rules, "export": of_export},
            },
        )

    def export_schema(self) -> dict[str, Any]:
        """What an export depends on beside its run."""
        return self.model_dump(mode="json", include={"index", "rules", "export"})

    def fingerprint(self) -> str:
        """16 hex digits of the SHA-256 of `record_schema`."""
        return fingerprint(self.record_schema())


def _name_after(column: Any, otherwise: str) -> str:
    """A feature's name after its column, where a feature can have it."""
    return column if isinstance(column, str) and is_feature_name(column) else otherwise

"""Settings of different sections that cannot go together, one function a rule.

Each takes the sections that it combines and yields the path of the key to change, and why.
"""

from collections.abc import Iterator

from tfrs_twotower.schema.columns import Columns
from tfrs_twotower.schema.export import Export
from tfrs_twotower.schema.features import Id
from tfrs_twotower.schema.filters import Filters
from tfrs_twotower.schema.labels import Labels
from tfrs_twotower.schema.loss import Loss
from tfrs_twotower.schema.rules import Rules
from tfrs_twotower.schema.sides import Features
from tfrs_twotower.schema.split import Split
from tfrs_twotower.schema.strict import Problem
from tfrs_twotower.schema.towers import Towers
from tfrs_twotower.schema.training import SMALLEST_BATCH, Training

_TIME_OR_ORDER = "`columns.timestamp` or `columns.order`"

_KINDS_OF_RULES = {
    "filters": ("categorical", "multi_categorical", "boolean"),
    "ranges": ("number", "timestamp"),
    "available_from": ("timestamp",),
    "available_until": ("timestamp",),
    "category": ("categorical", "boolean"),
    "timestamp": ("timestamp",),
}


def split_without_column(split: Split, columns: Columns) -> Iterator[Problem]:
    """A split needs the times, the order or the column that it cuts by."""
    if split.by in ("time", "dates") and columns.timestamp is None:
        yield "split.by", f"{split.by} needs `columns.timestamp`"
    if split.by in ("leave_last_out", "temporal_user") and not columns.has_order:
        yield "split.by", f"{split.by} needs {_TIME_OR_ORDER}"
    if split.by == "column" and columns.split is None:
        yield "split.by", "column needs `columns.split`"


def duplicates_without_order(filters: Filters, columns: Columns) -> Iterator[Problem]:
    """The first or last of duplicates is one of an order."""
    if filters.duplicates in ("first", "last") and not columns.has_order:
        yield "filters.duplicates", f"{filters.duplicates} needs {_TIME_OR_ORDER}"


def labels_without_column(labels: Labels, columns: Columns) -> Iterator[Problem]:
    """Rules of events and values need the column that they read."""
    if labels.events and columns.event is None:
        yield "labels.events", "needs `columns.event`"
    if labels.has_windows and columns.timestamp is None:
        yield "labels.events", "`unless_positive_within_s` needs `columns.timestamp`"
    if labels.values and columns.value is None:
        yield "labels.values", "needs `columns.value`"
    if labels.positive_from is not None and columns.value is None:
        yield "labels.positive_from", "needs `columns.value`"


def ordered_history(
    features: Features, columns: Columns, towers: Towers, training: Training
) -> Iterator[Problem]:
    """An encoder that reads the order of a history needs one, and trains on one device."""
    if features.history is None or not features.history.feature.is_ordered:
        return
    name, history = features.history
    where = f"features.query.{name}"
    if not columns.has_order:
        yield (
            f"{where}.encoder",
            f"{history.encoder} reads events in their order: give {_TIME_OR_ORDER}, or take mean",
        )
    if training.distribution != "one_device":
        yield (
            "training.distribution",
            f"a history with `encoder: {history.encoder}` is trained on one_device: the examples "
            "of one history cannot be spread over several",
        )
    if features.candidate_id is not None and history.heads:
        id_name, candidate_id = features.candidate_id
        width = candidate_id.embedding_dim or towers.embedding_dim
        if width % history.heads:
            yield (
                f"{where}.heads",
                f"{history.heads} must divide the width of `features.candidate.{id_name}` "
                f"({width})",
            )


def context_mode(
    features: Features, towers: Towers, loss: Loss, export: Export
) -> Iterator[Problem]:
    """A mode other than `user_tower` restricts features, loss and export."""
    mode = towers.context_mode
    if not features.context or mode == "user_tower":
        return
    if not features.query:
        yield (
            "towers.context_mode",
            f"{mode} needs features of the query beside the context's; take user_tower",
        )
    if mode == "trilinear":
        return
    if loss.kind != "bce":
        yield (
            "loss.kind",
            f"`towers.context_mode: {mode}` needs bce: a softmax over the candidates of one query "
            "gives the query's share of a sum no gradient",
        )
    if loss.mined_negatives:
        yield (
            "loss.mined_negatives",
            f"are found by dot product, which `towers.context_mode: {mode}` does not score by",
        )
    if export.retrieval:
        yield (
            "export.retrieval",
            f"`towers.context_mode: {mode}` scores pairs by a layer, which no index of vectors "
            "such as ScaNN's can search: set it to false and serve `retrieval_exact`, or take "
            "trilinear",
        )
    if export.similarity:
        yield (
            "export.similarity",
            f"`towers.context_mode: {mode}` scores pairs by a layer, not by stored vectors alone: "
            "set it to false, or take trilinear",
        )


def rule_columns(
    rules: Rules, export: Export, features: Features, columns: Columns
) -> Iterator[Problem]:
    """The rules read candidate features of certain kinds, and attributes."""
    known = {*export.attributes, *features.candidate}
    known |= {"available_from"} if columns.available_from else set()
    for role, kinds in _KINDS_OF_RULES.items():
        named = getattr(rules, role)
        for name in named if isinstance(named, list) else filter(None, [named]):
            feature = features.candidate.get(name)
            if name not in known or isinstance(feature, Id):
                yield (
                    f"rules.{role}",
                    f"{name} is no candidate feature and none of `export.attributes`",
                )
            elif feature is not None and feature.kind not in kinds:
                yield (
                    f"rules.{role}",
                    f"{name} is a feature of kind {feature.kind}; expected one of "
                    f"{', '.join(kinds)}",
                )
            elif isinstance(named, list) and not name.isidentifier():
                yield (
                    f"rules.{role}",
                    f"{name}: the name becomes a part of an input of the served model: letters, "
                    "digits and _",
                )
        if isinstance(named, list) and len(set(named)) < len(named):
            yield f"rules.{role}", "names an attribute twice"


def aggregates(features: Features, columns: Columns, loss: Loss) -> Iterator[Problem]:
    """Aggregates need times and values, and negatives whose aggregates are of the same moment."""
    for side, found in (
        ("context", features.query_aggregates),
        ("candidate", features.candidate_aggregates),
    ):
        for name, aggregate in found.items():
            where = f"features.{side}.{name}.aggregate"
            if columns.timestamp is None:
                yield where, "needs `columns.timestamp`"
            if aggregate.what == "mean" and columns.value is None:
                yield where, "a mean needs `columns.value`"
    drawn = loss.draws_from_corpus
    if features.candidate_aggregates and drawn is not None:
        yield (
            f"loss.{drawn}",
            "are drawn from the corpus, whose aggregates "
            f"(`features.candidate.{min(features.candidate_aggregates)}`) are of the end of train, "
            "later than the example: set it to 0, or remove the `aggregate`",
        )


def hard_negatives(loss: Loss, training: Training) -> Iterator[Problem]:
    """No more hard negatives can be kept than a batch has."""
    in_batch = (training.batch_size or SMALLEST_BATCH) - 1 + loss.uniform_negatives
    if loss.hard_negatives > in_batch:
        yield (
            "loss.hard_negatives",
            f"{loss.hard_negatives} is above the {in_batch} negatives that a query has in a batch "
            "(`training.batch_size` - 1 + `loss.uniform_negatives`)",
        )


def graph_smoothing(features: Features, training: Training) -> Iterator[Problem]:
    """What is smoothed are the embeddings of ids."""
    if training.graph_smoothing and features.query_id is None and features.candidate_id is None:
        yield "training.graph_smoothing", "needs a feature of kind id on either side"

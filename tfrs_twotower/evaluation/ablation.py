"""Ablation: how a model's lists change when one part of what it reads of a query is replaced.

* `permutation_importance`: each feature in turn gets the values of other queries.
* `context_sensitivity`: the context features get the values of two given moments.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.insights import evenly_spaced
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.features.raw_inputs import one_query_inputs
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import Config, UsageError
from tfrs_twotower.schema.features import Timestamp

LIST_LENGTH = 10
# Queries of a sample: enough for a hundredth of overlap.
MAX_QUERIES = 2000
# A Wednesday, for want of a better day.
DAY, MORNING, EVENING = (2024, 3, 6), 8, 20

Moment = Mapping[str, Any]
"""Raw values of context features by name; those not named stay as they were at the event."""


class ContextSensitivity(NamedTuple):
    """How alike the lists of two moments are.

    `overlap_at_10`: mean over the queries of the share of candidates that both lists of ten hold;
    1: the moment changes nothing.
    """

    context_mode: str | None
    first: dict[str, Any]
    second: dict[str, Any]
    num_queries: int
    overlap_at_10: float


def permutation_importance(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    """How much each query feature matters, over a sample of the queries.

    The values of one feature are shuffled among the queries; what the lists lose is what the model
    gains from knowing the right value.

    Returns:
        See `importance_of_changes`.

    References:
        Breiman, Random Forests, Machine Learning 2001, section 10.
    """
    sample = _sample(inputs.evaluation_set)
    config = inputs.data.config

    def rank(evaluation_set: EvaluationSet) -> Ranking:
        return inputs.with_queries(evaluation_set).rank(LIST_LENGTH)

    changed = {
        name: rank(shuffled(sample, name, config.training.seed)) for name in config.query_features
    }
    return importance_of_changes(changed, rank(sample), sample, list(config.features.context))


def importance_of_changes(
    changed: Mapping[str, Ranking],
    unchanged: Ranking,
    evaluation_set: EvaluationSet,
    context: Sequence[str],
) -> list[dict[str, Any]]:
    """Compares rankings without the right values of a feature to the one with them.

    Args:
        changed: By feature, the ranking with its values shuffled.
        unchanged: The ranking with the right values.
        evaluation_set: The queries.
        context: Names of the context features.

    Returns:
        For each feature its name, whether it is a context feature, overlap@10 with the unchanged
        lists (1: the model does not use it) and recall@10, beside the unchanged recall@10.
    """
    queries, k = evaluation_set.positives.queries, LIST_LENGTH
    before = float(metrics.recall_at_k(queries, unchanged.ranks, k).mean())
    return [
        {
            "feature": name,
            "is_context": name in context,
            "overlap_at_10": _overlap(ranking, unchanged),
            "recall_at_10": float(metrics.recall_at_k(queries, ranking.ranks, k).mean()),
            "recall_at_10_unchanged": before,
        }
        for name, ranking in changed.items()
    ]


def shuffled(evaluation_set: EvaluationSet, feature: str, seed: int) -> EvaluationSet:
    """The same queries with the values of one feature shuffled among them."""
    order = np.random.default_rng(seed).permutation(len(evaluation_set.query_rows))
    values = evaluation_set.features[feature][order]
    return evaluation_set._replace(features={**evaluation_set.features, feature: values})


def context_sensitivity(
    run: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    first: Moment | None = None,
    second: Moment | None = None,
) -> ContextSensitivity:
    """Compares a run's lists of two moments, over at most 2,000 queries of a split.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        split: The split whose queries are ranked for.
        first: Raw values of context features; default: a morning.
        second: Default: the evening of that day.

    Raises:
        UserError: If a folder is unusable; see `load_run`.
        UsageError: If the model has no context, or a moment is empty or does not fit, or none is
            given and the model reads no hour.
    """
    loaded = load_run(run, data)
    moments = _moments(loaded.config, first, second)
    evaluation_set = load_evaluation_set(loaded.data, split)
    inputs = EvaluationInputs.read(loaded.model, loaded.data, evaluation_set)
    return compare_moments(inputs, *moments)


def compare_moments(inputs: EvaluationInputs, first: Moment, second: Moment) -> ContextSensitivity:
    """Ranks for a sample of the queries in two moments.

    Raises:
        UsageError: If a moment names what is no context feature, or a value does not fit.
    """
    sample = inputs.with_queries(_sample(inputs.evaluation_set))
    one, other = (_in_moment(sample, moment).rank(LIST_LENGTH) for moment in (first, second))
    return ContextSensitivity(
        context_mode=inputs.data.config.context_mode,
        first=dict(first),
        second=dict(second),
        num_queries=len(sample.evaluation_set.query_rows),
        overlap_at_10=_overlap(one, other),
    )


def morning_and_evening(config: Config) -> tuple[Moment, Moment] | None:
    """08:00 and 20:00 of one day by the clock of each context feature that reads the hour.

    Returns:
        Both moments; None where no context feature reads the hour.
    """
    clocks = {
        name: feature
        for name, feature in config.features.context.items()
        if isinstance(feature, Timestamp) and "hour" in feature.parts
    }

    def at(hour: int) -> Moment:
        return {
            name: int(datetime(*DAY, hour, tzinfo=ZoneInfo(feature.time_zone)).timestamp())
            for name, feature in clocks.items()
        }

    return (at(MORNING), at(EVENING)) if clocks else None


def _moments(config: Config, first: Moment | None, second: Moment | None) -> tuple[Moment, Moment]:
    """The moments that are given, or else morning and evening."""
    if not config.features.context:
        raise UsageError(
            "the config has no context features: no moment changes what is recommended"
        )
    if (first is None) != (second is None):
        raise UsageError("give both moments or none")
    if first is None or second is None:
        default = morning_and_evening(config)
        if default is None:
            raise UsageError("the model reads no hour of a day: give the two moments to compare")
        return default
    if not (first and second):
        raise UsageError(
            "a moment is empty: name a value of a context feature, one of "
            f"{', '.join(config.features.context)}"
        )
    return first, second


def _in_moment(inputs: EvaluationInputs, moment: Moment) -> EvaluationInputs:
    data, evaluation_set = inputs.data, inputs.evaluation_set
    context = data.config.features.context
    if unknown := sorted(moment.keys() - context.keys()):
        raise UsageError(
            f"{unknown[0]} is no context feature: expected some of "
            f"{', '.join(context) or '(the config has none)'}"
        )
    named = {name: context[name] for name in moment}
    encoded = Encoder(named, data.vocabulary_dir)(one_query_inputs(named, moment))
    features = evaluation_set.features
    num_queries = len(evaluation_set.query_rows)
    changed = {
        name: np.repeat(values.numpy().astype(features[name].dtype), num_queries, axis=0)
        for name, values in encoded.items()
    }
    return inputs.with_queries(evaluation_set._replace(features={**features, **changed}))


def _sample(evaluation_set: EvaluationSet) -> EvaluationSet:
    num_queries = len(evaluation_set.query_rows)
    return evaluation_set.take(evenly_spaced(num_queries, MAX_QUERIES))


def _overlap(ranking: Ranking, other: Ranking) -> float:
    """Mean share of the lists of ten in common; queries without candidates do not count."""
    shares = metrics.overlap_at_k(ranking.top_rows, other.top_rows, LIST_LENGTH)
    return float(np.nanmean(shares))

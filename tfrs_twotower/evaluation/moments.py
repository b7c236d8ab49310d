"""Two moments, and how far a model's lists of one differ from those of the other."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.features.raw_inputs import one_query_inputs
from tfrs_twotower.schema import Config, UsageError
from tfrs_twotower.schema.features import Timestamp

LIST_LENGTH = 10
# A Wednesday, for want of a better day.
DAY, MORNING, EVENING = (2024, 3, 6), 8, 20

Moment = Mapping[str, Any]
"""Raw values of context features by name; those not named stay as they were at the event."""


class MomentOverlap(NamedTuple):
    """How alike the lists of two moments are.

    `overlap_at_10`: mean over the queries of the share of candidates that both lists of ten hold;
    1: the moment changes nothing.
    """

    context_mode: str | None
    first: dict[str, Any]
    second: dict[str, Any]
    num_queries: int
    overlap_at_10: float


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


def moment_overlap(
    rank: Callable[[EvaluationSet], Ranking],
    asked: EvaluationSet,
    data: PreparedData,
    first: Moment,
    second: Moment,
) -> MomentOverlap:
    """Asks the same queries in two moments.

    Args:
        rank: Ranks, with lists of ten at least.
        asked: The queries.
        data: The prepared folder.
        first: A moment.
        second: Another one.

    Raises:
        UsageError: If a moment names what is no context feature, or a value does not fit.
    """
    one, other = (rank(_in_moment(asked, data, moment)).top_rows for moment in (first, second))
    return MomentOverlap(
        context_mode=data.config.context_mode,
        first=dict(first),
        second=dict(second),
        num_queries=len(asked.query_rows),
        overlap_at_10=float(np.nanmean(metrics.overlap_at_k(one, other, LIST_LENGTH))),
    )


def _in_moment(asked: EvaluationSet, data: PreparedData, moment: Moment) -> EvaluationSet:
    context = data.config.features.context
    if unknown := sorted(moment.keys() - context.keys()):
        raise UsageError(
            f"{unknown[0]} is no context feature: expected some of "
            f"{', '.join(context) or '(the config has none)'}"
        )
    features = {name: context[name] for name in moment}
    encoded = Encoder(features, data.vocabulary_dir)(one_query_inputs(features, moment))
    changed = {
        name: np.repeat(values.numpy().astype(asked.features[name].dtype), len(asked.query_rows), 0)
        for name, values in encoded.items()
    }
    return asked._replace(features={**asked.features, **changed})

"""The systems that an evaluation compares, each a function from its inputs to a ranking."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfrs_twotower.evaluation import baselines
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.lists import rank_by_lists
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.evaluation.result import MODEL, POPULARITY
from tfrs_twotower.evaluation.served import NO_CANDIDATE
from tfrs_twotower.evaluation.summaries import LIST_LENGTH
from tfrs_twotower.schema import Config

Ints = npt.NDArray[np.int64]
Ranker = Callable[[EvaluationInputs], Ranking]


def model(inputs: EvaluationInputs) -> Ranking:
    """The two towers by exact search."""
    return inputs.rank(LIST_LENGTH)


def popularity(inputs: EvaluationInputs) -> Ranking:
    """Train positives."""
    return baselines.popularity(inputs.evaluation_set, inputs.corpus.train_counts, LIST_LENGTH)


def chance(inputs: EvaluationInputs) -> Ranking:
    """A random order for each query."""
    seed = inputs.data.config.training.seed
    return baselines.chance(inputs.evaluation_set, len(inputs.corpus), seed, LIST_LENGTH)


def recent_popularity(inputs: EvaluationInputs) -> Ranking:
    """The last tenth of the train positives; for data with times."""
    counts = baselines.recent_counts(inputs.data.events_to_train(), len(inputs.corpus))
    return baselines.popularity(inputs.evaluation_set, counts, LIST_LENGTH)


def item_knn(inputs: EvaluationInputs) -> Ranking:
    """Item-based collaborative filtering."""
    return baselines.item_knn(
        inputs.evaluation_set,
        inputs.data.known_positives(),
        int(inputs.data.manifest["num_queries"]),
        len(inputs.corpus),
        LIST_LENGTH,
    )


def sequential_rules(inputs: EvaluationInputs) -> Ranking:
    """What came after what in train; for data with an order."""
    return baselines.sequential_rules(
        inputs.evaluation_set,
        inputs.data.events_to_train(),
        int(inputs.data.manifest["num_queries"]),
        len(inputs.corpus),
        LIST_LENGTH,
    )


def ranked_lists(path: str | Path) -> Ranker:
    """The lists of a Parquet file; see `baselines.ranked_lists`."""
    return lambda inputs: baselines.ranked_lists(
        path, inputs.evaluation_set, inputs.query_ids, inputs.corpus.candidate_ids, LIST_LENGTH
    )


def served(top_rows: Ints) -> Ranker:
    """What exported models recommend: `[num_queries, k]` candidate rows, -1 where no more."""

    def rank(inputs: EvaluationInputs) -> Ranking:
        queries, positions = np.nonzero(top_rows != NO_CANDIDATE)
        listed = Pairs(queries, top_rows[queries, positions])
        positives = inputs.evaluation_set.positives
        return rank_by_lists(listed, positives, len(top_rows), len(inputs.corpus), LIST_LENGTH)

    return rank


# What a training run is judged beside.
BASIC: dict[str, Ranker] = {MODEL: model, POPULARITY: popularity, "random": chance}


def further_baselines(config: Config) -> dict[str, Ranker]:
    """The baselines that cost more: item-kNN, and those that need times or an order."""
    found: dict[str, Ranker] = {}
    if config.columns.timestamp is not None:
        found["recent popularity"] = recent_popularity
    if config.has_order:
        found["sequential rules"] = sequential_rules
    return {**found, "item-kNN": item_knn}

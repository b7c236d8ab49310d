"""The metrics that an evaluation reports, over each of its slices."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Corpus
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.intervals import Interval, bootstrap
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.evaluation.slices import Slice

LIST_LENGTH = 10
CUTS = (5, 10, 20, 100)
# With an interval in every slice.
HEADLINE = ("recall_at_10", "recall_at_100", "hit_rate_at_10", "ndcg_at_10", "mrr")
COVERAGE = f"coverage_at_{LIST_LENGTH}"

Floats = npt.NDArray[np.float32]
Values = dict[str, float | None]
Intervals = dict[str, Interval]


def metric_names(cut_offs: Sequence[int] = ()) -> tuple[str, ...]:
    """The metrics of ranks at each of `CUTS` and of further cut-offs, and MRR."""
    cuts = sorted({*CUTS, *cut_offs})
    return (*(f"{name}_at_{k}" for name in metrics.OF_RANKS for k in cuts), "mrr")


def summaries(
    rankings: Mapping[str, Ranking],
    evaluation_set: EvaluationSet,
    chosen: Slice,
    corpus: Corpus,
    candidates: Floats,
    seed: int | None,
    names: Sequence[str],
) -> tuple[dict[str, Values], dict[str, Intervals]]:
    """The metrics of each system over a slice and, given a seed, their 95 % intervals.

    Args:
        rankings: By system.
        evaluation_set: The queries.
        chosen: The slice.
        corpus: The candidates.
        candidates: `[corpus_size, embedding_dim]` their embeddings, for diversity.
        seed: Of the bootstrap; None: no intervals.
        names: Of the metrics of ranks; those of `HEADLINE` among them.

    Returns:
        By system the metrics, None where the slice is empty (lists are judged in slices of queries
        only); and the intervals of `HEADLINE`, none for an empty slice.
    """
    if not chosen.is_positive.any():
        empty: Values = dict.fromkeys((*names, COVERAGE) if chosen.is_of_queries else names)
        return {name: dict(empty) for name in rankings}, {}
    kept, queries = np.unique(
        evaluation_set.positives.queries[chosen.is_positive], return_inverse=True
    )
    relevant_rows = evaluation_set.positives.candidate_rows[chosen.is_positive]
    means: dict[str, Values] = {}
    columns = []
    for name, ranking in rankings.items():
        ranks = ranking.ranks[chosen.is_positive]
        of_query = {metric: metrics.by_name(metric, queries, ranks) for metric in names}
        means[name] = {metric: float(values.mean()) for metric, values in of_query.items()}
        if chosen.is_of_queries:
            top_rows = ranking.top_rows[kept]
            means[name] |= _of_lists(top_rows, corpus, candidates, queries, relevant_rows)
        columns += [of_query[metric] for metric in HEADLINE]
    if seed is None:
        return means, {}
    drawn = iter(bootstrap(np.stack(columns, axis=1), evaluation_set.query_rows[kept], seed))
    return means, {name: {metric: next(drawn) for metric in HEADLINE} for name in rankings}


def _of_lists(
    top_rows: npt.NDArray[np.int64],
    corpus: Corpus,
    candidates: Floats,
    queries: npt.NDArray[np.int64],
    relevant_rows: npt.NDArray[np.int64],
) -> Values:
    """Metrics of the lists themselves; None where no list is long enough for one."""
    counts = corpus.train_counts
    found = {
        COVERAGE: metrics.coverage_at_k(top_rows, len(corpus)),
        f"novelty_at_{LIST_LENGTH}": _mean(metrics.novelty_at_k(top_rows, counts)),
        f"popularity_ratio_at_{LIST_LENGTH}": metrics.popularity_ratio_at_k(
            top_rows, counts, queries, relevant_rows
        ),
        f"diversity_at_{LIST_LENGTH}": _mean(metrics.diversity_at_k(top_rows, candidates)),
    }
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Over the queries that have a value."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")

"""Ranking metrics, each defined once, as functions of the ranks of the relevant candidates.

A *rank* is 1-based, among the candidates that are eligible for the query (the whole corpus less
what is excluded), by score descending; equal scores are ordered by candidate id.

All functions take the same two arrays, flat over all queries of an evaluation:

* `queries`: `[num_positives]` int, which query a relevant candidate belongs to: 0, 1, ...;
  every query from 0 to the largest has at least one;
* `ranks`: `[num_positives]` int, the rank of that candidate.

They return one value a query, `[num_queries]` float64; the metric is the mean over queries.
"""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def recall_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Relevant candidates among the first k, over all relevant candidates of the query."""
    return _hits(queries, ranks, k) / np.bincount(queries)


def hit_rate_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """1 where at least one relevant candidate is among the first k, else 0."""
    return (_hits(queries, ranks, k) > 0).astype(np.float64)


def ndcg_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Normalised discounted cumulative gain with binary relevance.

    DCG = sum over relevant candidates with rank r <= k of 1 / log2(r + 1); divided by the DCG of
    the best possible list, which has the first min(k, number of relevant candidates) ranks.
    """
    gains = np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)
    dcg = np.bincount(queries, weights=gains)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    return dcg / ideal[np.minimum(np.bincount(queries), k)]


def mrr(queries: Ints, ranks: Ints) -> Floats:
    """1 / the rank of the first relevant candidate."""
    best = np.full(int(queries.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(best, queries, ranks)
    return 1.0 / best


def coverage_at_k(top_rows: Ints, corpus_size: int) -> float:
    """Distinct candidates in any of the lists, over the corpus.

    Args:
        top_rows: `[num_queries, k]` candidate rows; -1 where a list is shorter.
        corpus_size: Number of candidates.
    """
    return len(np.unique(top_rows[top_rows >= 0])) / corpus_size


def by_name(name: str, queries: Ints, ranks: Ints) -> Floats:
    """The per-query metric that a name such as `recall_at_10` or `mrr` means."""
    metric, _, k = name.partition("_at_")
    if metric == "mrr":
        return mrr(queries, ranks)
    of = {"recall": recall_at_k, "hit_rate": hit_rate_at_k, "ndcg": ndcg_at_k}[metric]
    return of(queries, ranks, int(k))


def _hits(queries: Ints, ranks: Ints, k: int) -> Floats:
    return np.bincount(queries, weights=(ranks <= k).astype(np.float64)).astype(np.float64)

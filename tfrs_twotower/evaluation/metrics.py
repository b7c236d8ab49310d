"""Ranking metrics, each defined once.

Most are functions of the ranks of the relevant candidates. A *rank* is 1-based, among the
candidates that are eligible for the query (the whole corpus less what is excluded), by score
descending; equal scores are ordered by candidate id.

They take the same two arrays, flat over all queries of an evaluation:

* `queries`: `[num_positives]` int, which query a relevant candidate belongs to: 0, 1, ...;
  every query from 0 to the largest has at least one;
* `ranks`: `[num_positives]` int, the rank of that candidate.

They return one value a query, `[num_queries]` float64; the metric is the mean over queries.

The others look at the lists themselves: `top_rows` `[num_queries, k]` candidate rows, best first,
-1 where a list is shorter.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tfrs_twotower.schema import UsageError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def recall_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Relevant candidates among the first k, over all relevant candidates of the query."""
    return _hits(queries, ranks, k) / np.bincount(queries)


def hit_rate_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """1 where at least one relevant candidate is among the first k, else 0."""
    return (_hits(queries, ranks, k) > 0).astype(np.float64)


def precision_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Relevant candidates among the first k, over k, also where fewer than k are eligible."""
    return _hits(queries, ranks, k) / k


def ndcg_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Normalised discounted cumulative gain with binary relevance.

    DCG = sum over relevant candidates with rank r <= k of 1 / log2(r + 1); divided by the DCG of
    the best possible list, which has the first min(k, number of relevant candidates) ranks.
    """
    gains = np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)
    dcg = np.bincount(queries, weights=gains)
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    return dcg / ideal[np.minimum(np.bincount(queries), k)]


def map_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """Average precision, its mean over queries being MAP.

    The sum over relevant candidates with rank r <= k of the precision among the first r, divided
    by the number of relevant candidates of the query (not by min(k, that number)).
    """
    order = np.lexsort((ranks, queries))
    ordered, counts = queries[order], np.bincount(queries)
    hits = np.arange(1, len(order) + 1) - (np.cumsum(counts) - counts)[ordered]
    precisions = np.where(ranks[order] <= k, hits / ranks[order], 0.0)
    return np.bincount(ordered, weights=precisions) / counts


def mrr(queries: Ints, ranks: Ints) -> Floats:
    """1 / the rank of the first relevant candidate."""
    return 1.0 / _first_ranks(queries, ranks)


def mrr_at_k(queries: Ints, ranks: Ints, k: int) -> Floats:
    """1 / the rank of the first relevant candidate; 0 where that is not among the first k."""
    firsts = _first_ranks(queries, ranks)
    return np.where(firsts <= k, 1.0 / firsts, 0.0)


OF_RANKS: dict[str, Callable[[Ints, Ints, int], Floats]] = {
    "recall": recall_at_k,
    "hit_rate": hit_rate_at_k,
    "precision": precision_at_k,
    "ndcg": ndcg_at_k,
    "map": map_at_k,
    "mrr": mrr_at_k,
}


def by_name(name: str, queries: Ints, ranks: Ints) -> Floats:
    """A metric of ranks by its name: `mrr`, or one of `OF_RANKS` with its k, as `recall_at_10`.

    Raises:
        UsageError: If there is no such metric.
    """
    if name == "mrr":
        return mrr(queries, ranks)
    metric, _, k = name.partition("_at_")
    if metric not in OF_RANKS or not k.isdecimal() or not int(k):
        raise UsageError(
            f"no metric {name!r}: expected mrr, or {', '.join(OF_RANKS)} with a cut-off, such as "
            "recall_at_10"
        )
    return OF_RANKS[metric](queries, ranks, int(k))


def coverage_at_k(top_rows: Ints, corpus_size: int) -> float:
    """Distinct candidates in any of the lists, over the corpus.

    Args:
        top_rows: The lists.
        corpus_size: Number of candidates.
    """
    return len(np.unique(top_rows[top_rows >= 0])) / corpus_size


def novelty_at_k(top_rows: Ints, train_counts: Ints) -> Floats:
    """Mean self-information of the listed candidates, in bits; NaN for an empty list.

    -log2 of the share of train positives that the candidate has, with one added to every count: the
    more popular a candidate, the less information.

    Args:
        top_rows: The lists.
        train_counts: `[corpus_size]` train positives of each candidate.

    References:
        Zhou et al., Solving the Apparent Diversity-Accuracy Dilemma of Recommender Systems,
        PNAS 2010.
    """
    smoothed = train_counts + 1.0
    return _mean_of_listed(top_rows, -np.log2(smoothed / smoothed.sum()))


def popularity_ratio_at_k(
    top_rows: Ints, train_counts: Ints, queries: Ints, relevant_rows: Ints
) -> float:
    """Popularity bias: how popular the lists are, over how popular the relevant candidates are.

    Popularity of a list is the mean train count of its candidates; both are averaged over
    queries. 1: the lists are as popular as the relevant candidates; above 1: more popular.

    Args:
        top_rows: The lists.
        train_counts: `[corpus_size]` train positives of each candidate.
        queries: `[num_positives]` the query of each relevant candidate.
        relevant_rows: `[num_positives]` the relevant candidates.

    Returns:
        The ratio; NaN where no relevant candidate is in train, or every list is empty.
    """
    listed = _mean_of_listed(top_rows, train_counts.astype(np.float64))
    chosen = np.bincount(queries, weights=train_counts[relevant_rows]) / np.bincount(queries)
    mean_chosen = chosen.mean()
    is_listed = ~np.isnan(listed)
    if not mean_chosen or not is_listed.any():
        return float("nan")
    return float(listed[is_listed].mean() / mean_chosen)


def diversity_at_k(top_rows: Ints, embeddings: npt.NDArray[np.float32]) -> Floats:
    """Intra-list diversity: 1 - the mean cosine of two candidates of the list.

    Args:
        top_rows: The lists.
        embeddings: `[corpus_size, embedding_dim]` of length 1, or 0.

    Returns:
        0: all the same, 1: all orthogonal; NaN for a list of fewer than two.

    References:
        Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005.
    """
    # The sum over all pairs is the squared length of the sum, less each vector with itself. In
    # float64: the difference of two nearly equal sums would lose its digits.
    is_listed = top_rows >= 0
    counts = is_listed.sum(1)
    diversity = np.full(len(top_rows), np.nan)
    some = np.flatnonzero(counts > 1)
    for block in np.array_split(some, max(top_rows.size * embeddings.shape[1] // 16_000_000, 1)):
        vectors = embeddings[top_rows[block]] * is_listed[block][..., np.newaxis]
        of_sum = (vectors.sum(1, dtype=np.float64) ** 2).sum(1)
        of_self = (vectors.astype(np.float64) ** 2).sum((1, 2))
        pairs = counts[block] * (counts[block] - 1)
        diversity[block] = 1.0 - (of_sum - of_self) / pairs
    return diversity


def overlap_at_k(first: Ints, second: Ints, k: int) -> Floats:
    """Candidates that two systems both list among their first k, over the longer list's length.

    Args:
        first: Lists of one system, each candidate at most once a list.
        second: Lists of the other, for the same queries.
        k: How many places count.

    Returns:
        1 = the same candidates in any order, 0 = none in common; NaN where both lists are empty.
    """
    first, second = first[:, :k], second[:, :k]
    lengths = np.maximum((first >= 0).sum(1), (second >= 0).sum(1))
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)
    common = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)).sum(1)
    return np.divide(common, lengths, out=np.full(len(first), np.nan), where=lengths > 0)


def _first_ranks(queries: Ints, ranks: Ints) -> Ints:
    firsts = np.full(int(queries.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(firsts, queries, ranks)
    return firsts


def _hits(queries: Ints, ranks: Ints, k: int) -> Floats:
    return np.bincount(queries, weights=(ranks <= k).astype(np.float64)).astype(np.float64)


def _mean_of_listed(top_rows: Ints, value_of_row: Floats) -> Floats:
    is_listed = top_rows >= 0
    counts = is_listed.sum(1)
    sums = np.where(is_listed, value_of_row[top_rows], 0.0).sum(1)
    return np.divide(sums, counts, out=np.full(len(top_rows), np.nan), where=counts > 0)

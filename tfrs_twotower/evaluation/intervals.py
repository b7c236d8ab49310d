"""Confidence intervals of means over queries, and significance of paired differences.

Both resample clusters, the users: the events of one user are not independent.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
BLOCK_ELEMENTS = 8_000_000
# Sign flips of a test: as many as this many products allow, within the bounds.
MIN_FLIPS, MAX_FLIPS, FLIP_PRODUCTS = 1000, 10_000, 200_000_000


class Interval(NamedTuple):
    """A 95 % bootstrap interval."""

    low: float
    high: float


def bootstrap(values: Floats, clusters: Ints, seed: int) -> list[Interval]:
    """95 % intervals of means, by the percentile bootstrap over clusters.

    Args:
        values: `[num_queries, num_metrics]`, one column a metric; finite.
        clusters: `[num_queries]` which cluster (user) each query belongs to, any integers.
        seed: Of the resamples.

    Returns:
        One interval a metric, in the order of the columns; both ends the mean where there is one
        cluster only.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    sums, sizes = _by_cluster(values, clusters)
    both = np.concatenate([sums, sizes[:, np.newaxis]], axis=1)
    num_clusters = len(sizes)
    generator = np.random.default_rng(seed)
    means = []
    block = max(BLOCK_ELEMENTS // num_clusters, 1)
    for start in range(0, NUM_RESAMPLES, block):
        size = min(block, NUM_RESAMPLES - start)
        drawn = generator.integers(0, num_clusters, [size, num_clusters])
        drawn += np.arange(size)[:, np.newaxis] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=size * num_clusters)
        totals = counts.reshape(size, num_clusters).astype(np.float64) @ both
        means.append(totals[:, :-1] / totals[:, -1:])
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(np.concatenate(means), [tail, 100.0 - tail], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def paired_p_value(differences: Floats, clusters: Ints, seed: int) -> float:
    """Fisher's randomisation test of the hypothesis that two systems are the same.

    If they were, each user's difference could as well have the other sign: the p-value is the
    share of random sign flips whose total is at least as far from zero as the one observed, in
    both directions. `scipy.stats.permutation_test` gives the same, ten times as slowly: it permutes
    every pair where a product with random signs will do.

    Args:
        differences: `[num_queries]` the one system's value less the other's; finite.
        clusters: `[num_queries]` which cluster (user) each query belongs to.
        seed: Of the flips.

    Returns:
        The p-value, in (0, 1]; 1 where there is no difference at all.

    References:
        Smucker, Allan and Carterette, A Comparison of Statistical Significance Tests for
        Information Retrieval Evaluation, CIKM 2007.
    """
    sums = _by_cluster(differences[:, np.newaxis], clusters)[0][:, 0]
    # Clusters without a difference contribute nothing, whatever their sign.
    sums = sums[sums != 0.0]
    if not len(sums):
        return 1.0
    num_flips = int(np.clip(FLIP_PRODUCTS // len(sums), MIN_FLIPS, MAX_FLIPS))
    # Sums in another order differ in their last bits: without the slack, ties would be missed.
    observed = abs(sums.sum()) * (1.0 - 1e-12)
    generator = np.random.default_rng(seed)
    block = max(BLOCK_ELEMENTS // len(sums), 1)
    extreme = 0
    for start in range(0, num_flips, block):
        size = min(block, num_flips - start)
        is_positive = generator.integers(0, 2, [size, len(sums)], np.int8)
        totals = (2.0 * is_positive - 1.0) @ sums
        extreme += int((np.abs(totals) >= observed).sum())
    return (1 + extreme) / (1 + num_flips)


def _by_cluster(values: Floats, clusters: Ints) -> tuple[Floats, Floats]:
    """Sums `[num_clusters, num_metrics]` and sizes `[num_clusters]`."""
    members, sizes = np.unique(clusters, return_inverse=True, return_counts=True)[1:]
    sums = [np.bincount(members, weights=column).astype(np.float64) for column in values.T]
    return np.stack(sums, axis=1), sizes.astype(np.float64)

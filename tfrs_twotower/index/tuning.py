"""Recall as an input: the cheapest way to search that finds a wanted share of the exact answer.

Tried are trees of several numbers of leaves and widths of code, searched in more and less leaves,
rescoring more and fewer candidates, on held-out queries: they lie elsewhere than candidates, so
candidates in their place would promise too much.

What a setting costs is counted, not timed: bytes of memory that a query reads, weighed by how they
are read. The same data so give the same index on every machine, busy or not. Times are measured
beside it, for people.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.scann import Measures, ScannIndex, measures_of
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index as IndexConfig

Floats = npt.NDArray[np.float32]

CONFIDENCE = 0.95
Z = 1.6449  # Of the normal distribution, one-sided.

# Relative to the square root of the corpus.
LEAF_FACTORS = (2, 4)
CODE_WIDTHS = (1, 2)
# Relative to the k that is wanted.
REORDER_FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
LEAF_STEP = 1.25
NUM_TIMED = 20

# What a byte costs beside one of the codes, which are read in order: measured on 1 M candidates of
# 64 dimensions. Leaf centres are read in order as well, once for all queries of a batch; rescored
# candidates lie anywhere in memory.
CENTRE_WEIGHT, RESCORED_WEIGHT = 0.5, 6


class Recall(NamedTuple):
    """The share of the exact answer that was found, over held-out queries."""

    mean: float
    at_least: float  # With 95 % confidence.
    at: int
    num_queries: int


class Trial(NamedTuple):
    """One setting that was tried."""

    measures: Measures
    recall: float
    at_least: float
    cost_bytes: int  # See `cost_bytes`.
    latency_ms: float  # Median of single queries, called from Python.

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        values = self._asdict()
        return {**values.pop("measures")._asdict(), **values}


class Tuning(NamedTuple):
    """What was tried, in the order of cost, and what was chosen."""

    target_recall: float
    at: int
    num_queries: int
    chosen: Trial
    trials: list[Trial]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        trials = [trial.as_dict() for trial in self.trials]
        return {**self._asdict(), "chosen": self.chosen.as_dict(), "trials": trials}


def tune(embeddings: Floats, queries: Floats, config: IndexConfig) -> tuple[ScannIndex, Tuning]:
    """Builds the index that meets `config.target_recall` at the lowest cost.

    Args:
        embeddings: `[num_candidates, embedding_dim]`, enough for a tree (see `index.has_tree`).
        queries: `[num_queries, embedding_dim]` held-out query embeddings.
        config: With a target; measures that it gives are not searched.

    Returns:
        The index, and how it was found.

    Raises:
        UserError: If no setting meets the target.
    """
    target = config.target_recall
    if target is None:
        raise ValueError("`config.target_recall` must be given.")
    at = min(config.at, len(embeddings))
    trials: list[Trial] = []
    best: tuple[ScannIndex, Trial] | None = None
    worst_scores: Floats | None = None
    for measures in _trees(config, len(embeddings)):
        index = ScannIndex(embeddings, config, measures)
        if worst_scores is None:
            worst_scores = exact_scores(index, queries, at)
        trial = _cheapest(index, queries, worst_scores, at, measures, config, best, trials)
        if trial is not None:
            index.search_with(trial.measures)
            best = index, trial
    trials.sort(key=lambda trial: (trial.cost_bytes, trial.measures))
    if best is None:
        raise UserError(_unmet(target, at, len(queries), trials))
    return best[0], Tuning(target, at, len(queries), best[1], trials)


def measured_recall(index: ScannIndex, queries: Floats, at: int) -> Recall:
    """The recall of an index as it is.

    Args:
        index: As it will be served.
        queries: `[num_queries, embedding_dim]` held-out query embeddings, at least one.
        at: How many of the best are wanted.
    """
    at = min(at, index.num_candidates)
    search = _compiled(index.search, index.embedding_dim, 1)
    _, scores = search(queries, at)
    found = found_share(scores.numpy(), exact_scores(index, queries, at))
    return Recall(float(found.mean()), at_least(found), at, len(queries))


def exact_scores(index: ScannIndex, queries: Floats, at: int) -> Floats:
    """`[num_queries]` the score of the last candidate of each exact answer."""
    _, scores = _compiled(index.search_exactly, index.embedding_dim, 1)(queries, at)
    return np.asarray(scores.numpy()[:, -1], np.float32)


def found_share(scores: Floats, worst_scores: Floats) -> npt.NDArray[np.float64]:
    """Which share of each answer belongs to the exact one; one as good as its last belongs, too.

    Args:
        scores: `[num_queries, at]` of the candidates found.
        worst_scores: See `exact_scores`.
    """
    return (scores >= worst_scores[:, np.newaxis]).mean(axis=1)


def at_least(shares: npt.NDArray[np.float64]) -> float:
    """The lower bound of the mean of shares between 0 and 1, with 95 % confidence.

    The normal bound, with one more, imaginary query for which nothing is found: a handful of
    queries that all go well prove little.
    """
    seen = np.append(shares, 0.0)
    return float(max(seen.mean() - Z * seen.std(ddof=1) / math.sqrt(len(seen)), 0.0))


def cost_bytes(measures: Measures, num_candidates: int, embedding_dim: int) -> int:
    """Bytes that a query reads: all leaf centres, the codes of the leaves searched, rescored rows.

    They count as much as as many bytes of codes would. Leaves are taken to be of one size.
    """
    row = 4 * embedding_dim
    code = math.ceil(embedding_dim / measures.dimensions_per_block) / 2
    scanned = num_candidates * measures.leaves_to_search / measures.num_leaves
    centres = CENTRE_WEIGHT * measures.num_leaves * row
    return int(centres + scanned * code + RESCORED_WEIGHT * measures.reorder * row)


def _trees(config: IndexConfig, num_candidates: int) -> Iterator[Measures]:
    """What to build; measures that the config gives stay as they are."""
    base = measures_of(config, num_candidates)
    given = config.dimensions_per_block
    widths = (given,) if given else CODE_WIDTHS
    factors = (1,) if config.num_leaves else LEAF_FACTORS
    most = max(num_candidates // 16, 1)
    for num_leaves in sorted({min(base.num_leaves * factor, most) for factor in factors}):
        for width in widths:
            yield base._replace(num_leaves=num_leaves, dimensions_per_block=width)


def _cheapest(
    index: ScannIndex,
    queries: Floats,
    worst_scores: Floats,
    at: int,
    tree: Measures,
    config: IndexConfig,
    best: tuple[ScannIndex, Trial] | None,
    trials: list[Trial],
) -> Trial | None:
    """The cheapest setting of a tree that meets the target for less than the best so far."""
    search = _compiled(index.search_trial, index.embedding_dim, 3)
    size, dim = index.num_candidates, index.embedding_dim

    def cost(measures: Measures) -> int:
        return cost_bytes(measures, size, dim)

    def tried(measures: Measures) -> Trial:
        scores = search(queries, at, measures.leaves_to_search, measures.reorder)[1].numpy()
        found = found_share(scores, worst_scores)
        latency_ms = _latency_ms(
            lambda query: search(query, at, measures.leaves_to_search, measures.reorder), queries
        )
        trial = Trial(measures, float(found.mean()), at_least(found), cost(measures), latency_ms)
        trials.append(trial)
        return trial

    met: Trial | None = best[1] if best else None
    before = met
    for reorder in _reorders(config, at, size):
        leaves = [
            tree._replace(leaves_to_search=count, reorder=reorder)
            for count in _leaf_counts(config, tree.num_leaves)
        ]
        if met is not None:
            leaves = [measures for measures in leaves if cost(measures) < met.cost_bytes]
        # More leaves find more: the first that are enough are found by halving.
        first, last = 0, len(leaves)
        while first < last:
            middle = (first + last) // 2
            trial = tried(leaves[middle])
            if trial.at_least >= (config.target_recall or 0.0):
                met, last = trial, middle
            else:
                first = middle + 1
    return met if met is not before else None


def _reorders(config: IndexConfig, at: int, num_candidates: int) -> list[int]:
    if config.reorder:
        return [config.reorder]
    return sorted({min(math.ceil(at * factor), num_candidates) for factor in REORDER_FACTORS})


def _leaf_counts(config: IndexConfig, num_leaves: int) -> list[int]:
    if config.leaves_to_search:
        return [min(config.leaves_to_search, num_leaves)]
    steps = math.ceil(math.log(max(num_leaves, 2), LEAF_STEP)) + 1
    return sorted({min(math.ceil(LEAF_STEP**step), num_leaves) for step in range(steps)})


def _compiled(function: Callable[..., Any], embedding_dim: int, num_counts: int) -> Any:
    """A search as a graph: queries, then as many int32 scalars."""
    specs = [tf.TensorSpec([None, embedding_dim], tf.float32)]
    return tf.function(function, specs + [tf.TensorSpec([], tf.int32)] * num_counts)


def _latency_ms(search: Callable[[Floats], Any], queries: Floats) -> float:
    times = []
    for number in range(min(NUM_TIMED, len(queries))):
        started = time.perf_counter()
        search(queries[number : number + 1])
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times)), 4)


def _unmet(target: float, at: int, num_queries: int, trials: list[Trial]) -> str:
    if not trials:
        return f"recall {target} at {at}: no setting could be tried, `index` fixes all of them"
    best = max(trials, key=lambda trial: trial.at_least)
    setting = ", ".join(f"{name} {value}" for name, value in best.measures._asdict().items())
    return (
        f"recall {target} at {at} cannot be met: the best that was reached is {best.recall:.4f}, "
        f"at least {best.at_least:.4f} with {CONFIDENCE:.0%} confidence on {num_queries} held-out "
        f"queries ({setting})\nLower the target recall, take out what `index` of the config fixes, "
        "or raise `index.brute_force_below` above the corpus, which is exact."
    )

"""Recall as an input: the cheapest parameters that find a wanted share of the exact answer.

Trees of several numbers of leaves and widths of code are tried, searched in more and less leaves,
rescoring more and fewer candidates, on held-out queries: queries are distributed differently from
candidates, so candidates in their place would promise too much.

What a setting costs is counted, not timed: bytes of memory that a query reads, weighed by how they
are read. The same data so give the same index on every machine, busy or not. Times are measured
beside it, for people.

The cheapest of many settings owes its recall on these queries in part to chance. What it finds for
others, `promised_recall` finds out.
"""

import dataclasses
import functools
import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from tfrs_twotower.index.ivf import IvfIndex
from tfrs_twotower.index.parameters import (
    DEFAULT_ANISOTROPIC_THRESHOLD,
    DEFAULT_AT,
    DEFAULT_LEAF_DTYPE,
    LEAF_FACTORS,
    IndexParameters,
    IvfParameters,
    Parameters,
    most_leaves,
)
from tfrs_twotower.index.recall import (
    CONFIDENCE,
    Floats,
    exact_scores,
    found_share,
    recall_lower_bound,
)
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.schema import UserError

CODE_WIDTHS = (1, 2)
# Relative to the k that is wanted.
REORDER_FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
LEAF_STEP = 1.25
# The last costs almost five times as much as the first.
NUM_RUNGS = 8
NUM_TIMED = 20

TunedIndex = TypeVar("TunedIndex", bound=ScannIndex | IvfIndex)


class Trial(NamedTuple):
    """One setting that was tried.

    Attributes:
        parameters: Of the index.
        recall: Mean over the queries that it was tried on.
        lower_bound: Of the recall; true of a setting that is looked at alone, not of the best.
        cost_bytes: See `IndexParameters.cost_bytes`.
        latency_ms: Median of single queries, called from Python.
    """

    parameters: Parameters
    recall: float
    lower_bound: float
    cost_bytes: int
    latency_ms: float

    def as_dict(self) -> dict[str, Any]:
        """As a manifest holds it, where the lower bound is `at_least`."""
        return {
            **self.parameters.as_dict(),
            "recall": self.recall,
            "at_least": self.lower_bound,
            "cost_bytes": self.cost_bytes,
            "latency_ms": self.latency_ms,
        }


class Tuning(NamedTuple):
    """What was tried and what was chosen.

    Attributes:
        target_recall: That the lower bound of `chosen` reaches.
        at: For the best how many.
        num_queries: On how many it was tried.
        chosen: The cheapest that reached the target.
        trials: All of them, in the order of cost.
        ladder: Settings of the same tree, `chosen` and then dearer and dearer ones, for queries
            on which `chosen` does not reach the target.
    """

    target_recall: float
    at: int
    num_queries: int
    chosen: Trial
    trials: list[Trial]
    ladder: Sequence[Parameters]

    def as_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return {
            "target_recall": self.target_recall,
            "at": self.at,
            "num_queries": self.num_queries,
            "chosen": self.chosen.as_dict(),
            "trials": [trial.as_dict() for trial in self.trials],
        }


def tune(
    embeddings: Floats,
    queries: Floats,
    *,
    target_recall: float,
    at: int = DEFAULT_AT,
    num_leaves: int | None = None,
    dimensions_per_block: int | None = None,
    leaves_to_search: int | None = None,
    reorder: int | None = None,
    anisotropic_threshold: float = DEFAULT_ANISOTROPIC_THRESHOLD,
) -> tuple[ScannIndex, Tuning]:
    """Builds the index that reaches a recall on some queries at the lowest cost.

    What the recall is for other queries, `promise_recall` and `measure_recall` find out.

    Args:
        embeddings: `[num_candidates, embedding_dim]`, at least 256.
        queries: `[num_queries, embedding_dim]` held-out query embeddings.
        target_recall: Share of the exact answer that must be found with 95 % confidence, between
            0 and 1.
        at: How many of the best are wanted; of a smaller corpus, all.
        num_leaves: See `IndexParameters`; None: searched, and so with the next three.
        dimensions_per_block: Likewise.
        leaves_to_search: Likewise.
        reorder: Likewise.
        anisotropic_threshold: See `IndexParameters`; not searched.

    Returns:
        The index, and how it was found.

    Raises:
        ValueError: If the target is out of range, or there are fewer than 256 candidates.
        UserError: If no setting reaches the target.
    """
    _check_target(target_recall)
    size = len(embeddings)
    at = min(at, size)
    base = IndexParameters.for_corpus(
        size,
        num_leaves=num_leaves,
        dimensions_per_block=dimensions_per_block,
        leaves_to_search=leaves_to_search,
        reorder=reorder,
        anisotropic_threshold=anisotropic_threshold,
        at=at,
    )
    leaf_factors = (1,) if num_leaves else LEAF_FACTORS
    code_widths = (dimensions_per_block,) if dimensions_per_block else CODE_WIDTHS
    reorders = [reorder] if reorder else _reorders(at, size)
    built = (
        (
            ScannIndex(embeddings, tree),
            _settings(tree, _leaf_counts(tree.num_leaves, leaves_to_search), reorders),
        )
        for tree in _trees(base, size, leaf_factors, code_widths)
    )
    best, chosen, trials = _cheapest(built, queries, target_recall, at)
    best.search_with(chosen.parameters)
    assert best.parameters is not None
    ladder = _ladder(
        best.parameters, size, widens=leaves_to_search is None, deepens=reorder is None
    )
    return best, Tuning(target_recall, at, len(queries), chosen, trials, ladder)


def tune_ivf(
    embeddings: Floats,
    queries: Floats,
    *,
    target_recall: float,
    at: int = DEFAULT_AT,
    leaf_dtype: str = DEFAULT_LEAF_DTYPE,
) -> tuple[IvfIndex, Tuning]:
    """Builds the inverted lists, and searches as few leaves as reach a recall on some queries.

    Args:
        embeddings: `[num_candidates, embedding_dim]`.
        queries: `[num_queries, embedding_dim]` held-out query embeddings.
        target_recall: See `tune`.
        at: See `tune`.
        leaf_dtype: See `IvfParameters`.

    Returns:
        The index, and how it was found.

    Raises:
        ValueError: If the target is out of range.
        UserError: If it is not reached.
    """
    _check_target(target_recall)
    at = min(at, len(embeddings))
    parameters = IvfParameters.for_corpus(len(embeddings), at=at, leaf_dtype=leaf_dtype)
    index = IvfIndex(embeddings, parameters)

    def searching(leaves: int) -> IvfParameters:
        return dataclasses.replace(index.parameters, leaves_to_search=leaves)

    row = [searching(leaves) for leaves in _leaf_counts(index.num_leaves, None)]
    best, chosen, trials = _cheapest([(index, [row])], queries, target_recall, at)
    best.search_with(chosen.parameters)
    first = best.parameters.leaves_to_search
    rungs = (min(math.ceil(first * LEAF_STEP**r), index.num_leaves) for r in range(NUM_RUNGS))
    ladder = [searching(leaves) for leaves in dict.fromkeys(rungs)]
    return best, Tuning(target_recall, at, len(queries), chosen, trials, ladder)


def _check_target(target_recall: float) -> None:
    if not 0.0 < target_recall < 1.0:
        raise ValueError(f"`target_recall` must be between 0 and 1, got {target_recall}.")


def _cheapest(
    built: Iterable[tuple[TunedIndex, Iterable[Sequence[Parameters]]]],
    queries: Floats,
    target_recall: float,
    at: int,
) -> tuple[TunedIndex, Trial, list[Trial]]:
    """The index and the setting that reach a recall at the lowest cost, and all trials by cost.

    Args:
        built: Indexes of one corpus, each with its settings; see `cheapest_by_halving`.
        queries: See `tune`.
        target_recall: See `tune`.
        at: See `tune`.

    Raises:
        UserError: If no setting reaches the target.
    """
    trials: list[Trial] = []
    best: TunedIndex | None = None
    chosen: Trial | None = None
    worst_scores: Floats | None = None
    for index, settings in built:
        if worst_scores is None:
            worst_scores = exact_scores(index, queries, at)
        worse: TunedIndex | None = index
        for trial in cheapest_by_halving(
            settings,
            _Trier(index, queries, worst_scores, at),
            functools.partial(_cost_bytes, index),
            target_recall,
            math.inf if chosen is None else chosen.cost_bytes,
        ):
            trials.append(trial)
            if trial.lower_bound >= target_recall:
                chosen = trial
                if worse is index:
                    best, worse = index, best
        # The next one is built in the memory of the worse one.
        del index
        if worse is not None:
            worse.release()
            del worse
            gc.collect()  # Graphs refer to themselves.
    trials.sort(key=lambda trial: (trial.cost_bytes, trial.parameters))
    if best is None or chosen is None:
        raise UserError(_unmet(target_recall, at, len(queries), trials))
    return best, chosen, trials


def _cost_bytes(index: ScannIndex | IvfIndex, parameters: Parameters) -> int:
    return parameters.cost_bytes(index.num_candidates, index.embedding_dim)


def cheapest_by_halving(
    settings: Iterable[Sequence[Parameters]],
    measure: Callable[[Parameters], Trial],
    cost_bytes: Callable[[Parameters], int],
    target_recall: float,
    limit: float = math.inf,
) -> Iterator[Trial]:
    """Tries settings until the cheapest that reaches a recall is known.

    Args:
        settings: Rows of settings; in a row each costs and finds more than the one before.
        measure: Tries one.
        cost_bytes: What one costs.
        target_recall: What the lower bound must reach.
        limit: Only settings that cost less are tried.

    Yields:
        Every trial. One that reaches the target costs less than all before that reached it.
    """
    for row in settings:
        cheaper = [parameters for parameters in row if cost_bytes(parameters) < limit]
        first, last = 0, len(cheaper)
        while first < last:
            middle = (first + last) // 2
            trial = measure(cheaper[middle])
            yield trial
            if trial.lower_bound >= target_recall:
                limit, last = trial.cost_bytes, middle
            else:
                first = middle + 1


class _Trier:
    """Tries settings of one index on the same queries."""

    def __init__(
        self, index: ScannIndex | IvfIndex, queries: Floats, worst_scores: Floats, at: int
    ) -> None:
        self._index, self._queries, self._worst_scores = index, queries, worst_scores
        self._at = at
        self._search = trial_search(index)

    def __call__(self, parameters: Parameters) -> Trial:
        def search(queries: Floats) -> Floats:
            return self._search(queries, self._at, *parameters.counts)

        found = found_share(search(self._queries), self._worst_scores)
        return Trial(
            parameters,
            float(found.mean()),
            recall_lower_bound(found),
            _cost_bytes(self._index, parameters),
            _latency_ms(search, self._queries),
        )


def trial_search(index: ScannIndex | IvfIndex) -> Callable[..., Floats]:
    """`search_trial` of an index as one graph: queries, k and counts -> scores."""
    num_counts = 1 if index.parameters is None else len(index.parameters.counts)
    specs = [tf.TensorSpec([None, index.embedding_dim], tf.float32)]
    specs += [tf.TensorSpec([], tf.int32)] * (1 + num_counts)
    graph = tf.function(index.search_trial, specs)
    return lambda *values: np.asarray(graph(*values)[1].numpy(), np.float32)


def _trees(
    base: IndexParameters,
    num_candidates: int,
    leaf_factors: Sequence[int],
    code_widths: Sequence[int],
) -> Iterator[IndexParameters]:
    """What to build; how it is searched is of no account yet."""
    most = most_leaves(num_candidates)
    for num_leaves in sorted({min(base.num_leaves * factor, most) for factor in leaf_factors}):
        for width in code_widths:
            yield dataclasses.replace(base, num_leaves=num_leaves, dimensions_per_block=width)


def _settings(
    tree: IndexParameters, leaf_counts: Sequence[int], reorders: Sequence[int]
) -> Iterator[list[IndexParameters]]:
    """For each number of rescored candidates the numbers of leaves to search, ascending."""
    for reorder in reorders:
        yield [
            dataclasses.replace(tree, leaves_to_search=leaves, reorder=reorder)
            for leaves in leaf_counts
        ]


def _reorders(at: int, num_candidates: int) -> list[int]:
    return sorted({min(math.ceil(at * factor), num_candidates) for factor in REORDER_FACTORS})


def _leaf_counts(num_leaves: int, given: int | None) -> list[int]:
    if given:
        return [min(given, num_leaves)]
    steps = math.ceil(math.log(max(num_leaves, 2), LEAF_STEP)) + 1
    return sorted({min(math.ceil(LEAF_STEP**step), num_leaves) for step in range(steps)})


def _ladder(
    chosen: IndexParameters, num_candidates: int, *, widens: bool, deepens: bool
) -> list[IndexParameters]:
    """Each rung searches a quarter more leaves and rescores a quarter more than the one below."""
    rungs = [
        dataclasses.replace(
            chosen,
            leaves_to_search=min(
                math.ceil(chosen.leaves_to_search * (factor if widens else 1.0)), chosen.num_leaves
            ),
            reorder=min(math.ceil(chosen.reorder * (factor if deepens else 1.0)), num_candidates),
        )
        for factor in (LEAF_STEP**rung for rung in range(NUM_RUNGS))
    ]
    return list(dict.fromkeys(rungs))


def _latency_ms(search: Callable[[Floats], Any], queries: Floats) -> float:
    times = []
    for number in range(min(NUM_TIMED, len(queries))):
        started = time.perf_counter()
        search(queries[number : number + 1])
        times.append(time.perf_counter() - started)
    return round(1000 * float(np.median(times)), 4)


def _unmet(target: float, at: int, num_queries: int, trials: list[Trial]) -> str:
    best = max(trials, key=lambda trial: trial.lower_bound)
    names = ("num_leaves", "dimensions_per_block", "leaves_to_search", "reorder")
    found = best.parameters.as_dict()
    setting = ", ".join(f"{name} {found[name]}" for name in names if name in found)
    return (
        f"recall {target} at {at} cannot be met: the best that was reached is {best.recall:.4f}, "
        f"at least {best.lower_bound:.4f} with {CONFIDENCE:.0%} confidence on {num_queries} "
        f"held-out queries ({setting})\nLower the target recall, take out what `index` of the "
        "config fixes, or raise `index.brute_force_below` above the corpus, which is exact."
    )

"""Which valid events are left out before the split. Pure functions of a partition's events.

The number of positives of a candidate is the only thing that a partition cannot know by itself:
`find_core` goes through all partitions for it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.io.tables import column
from pipelines.prepare.histories import groups
from pipelines.prepare.partitions import QUERY
from pipelines.prepare.validate import (
    CANDIDATE_ROW,
    LABEL,
    SPLIT,
    TIMESTAMP_S,
    WEIGHT,
    WINDOW_S,
)
from tfrs_twotower.schema.filters import Filters

# Names of the rules in the manifest's `counts.filtered`; `Examples` has two more, of the split.
CONTRADICTED, DUPLICATE = "negative_beside_positive", "duplicate"
RARE_CANDIDATE, RARE_QUERY = "rare_candidate", "rare_query"

SECOND_BITS = 32  # Of a moment before `END_OF_TIME_S`.


class Filtered(NamedTuple):
    """The events that stay, and how many do not, by rule."""

    events: pa.Table
    counts: dict[str, int]


class Pairs(NamedTuple):
    """The positives of a partition."""

    queries: np.ndarray  # [n] int, positions in the partition
    candidate_rows: np.ndarray  # [n] int, rows of the catalogue


def filter_by_query(filters: Filters, events: pa.Table) -> Filtered:
    """Leaves out negatives that give way to positives, then all but one of duplicates.

    Args:
        filters: Which duplicates to keep.
        events: Of a partition, in its order; the column `WINDOW_S` is read and taken away.
    """
    counts = {}
    if WINDOW_S in events.column_names:
        is_out = contradicted(*_arrays(events, CANDIDATE_ROW, TIMESTAMP_S, LABEL, WINDOW_S))
        events = events.drop_columns([WINDOW_S])
        events, counts[CONTRADICTED] = _without(events, is_out)
    if filters.duplicates != "all":
        events, counts[DUPLICATE] = _merge_duplicates(filters.duplicates, events)
    return Filtered(events, counts)


def filter_by_count(filters: Filters, events: pa.Table, is_kept: np.ndarray) -> Filtered:
    """Leaves out the events of rare candidates, then those of rare queries.

    Args:
        filters: The minima.
        events: Of a partition.
        is_kept: `[catalogue_size]` bool, as `find_core` finds it.
    """
    queries, candidate_rows, labels = _arrays(events, CANDIDATE_ROW, LABEL)
    is_rare_candidate = ~is_kept[candidate_rows]
    is_counted = labels == 1
    if filters.k_core:
        is_counted &= ~is_rare_candidate
    per_query = np.bincount(queries[is_counted], minlength=int(queries.max(initial=0)) + 1)
    is_rare_query = (per_query[queries] < filters.min_per_query) & ~is_rare_candidate
    kept, _ = _without(events, is_rare_candidate | is_rare_query)
    return Filtered(
        kept, {RARE_CANDIDATE: int(is_rare_candidate.sum()), RARE_QUERY: int(is_rare_query.sum())}
    )


def positives_of(events: pa.Table) -> Pairs:
    """What `find_core` counts of a partition's events."""
    queries, candidate_rows, labels = _arrays(events, CANDIDATE_ROW, LABEL)
    return Pairs(queries[labels == 1], candidate_rows[labels == 1])


def find_core(
    filters: Filters, partitions: Callable[[], Iterable[Pairs]], catalogue_size: int
) -> np.ndarray:
    """Which candidates have enough positives.

    Args:
        filters: The minima, and whether to count again until both hold.
        partitions: Gives the positives of all partitions, as often as it is called.
        catalogue_size: Known candidates.

    Returns:
        `[catalogue_size]` bool. With `k_core` the largest set of candidates and queries in which
        both minima hold; that of the queries follows from it.
    """
    is_kept = np.ones(catalogue_size, bool)
    while True:
        counts = np.zeros(catalogue_size, np.int64)
        for queries, candidate_rows in partitions():
            is_in = is_kept[candidate_rows]
            if filters.k_core:
                per_query = np.bincount(queries[is_in], minlength=int(queries.max(initial=0)) + 1)
                is_in &= per_query[queries] >= filters.min_per_query
            counts += np.bincount(candidate_rows[is_in], minlength=catalogue_size)
        enough = is_kept & (counts >= filters.min_per_candidate)
        if not filters.k_core or (enough == is_kept).all():
            return enough
        is_kept = enough


def contradicted(
    queries: np.ndarray,
    candidate_rows: np.ndarray,
    timestamps: np.ndarray,
    labels: np.ndarray,
    windows_s: np.ndarray,
) -> np.ndarray:
    """`[n]` bool: negatives with a positive of their query and candidate within their window.

    Args:
        queries: `[n]` int.
        candidate_rows: `[n]` int.
        timestamps: `[n]` int64 seconds.
        labels: `[n]` int.
        windows_s: `[n]` int seconds before and after a negative, both ends included; 0: none.
    """
    pairs = queries.astype(np.int64) * (int(candidate_rows.max(initial=0)) + 1) + candidate_rows
    _, pairs = np.unique(pairs, return_inverse=True)
    is_open = (labels == 0) & (windows_s > 0)
    positives = np.sort((pairs[labels == 1] << SECOND_BITS) + timestamps[labels == 1])
    moments, windows = timestamps[is_open], windows_s[is_open].astype(np.int64)
    bases = pairs[is_open] << SECOND_BITS
    first = np.searchsorted(positives, bases + np.maximum(moments - windows, 0))
    last = bases + np.minimum(moments + windows, (1 << SECOND_BITS) - 1)
    is_out = np.zeros(len(queries), bool)
    is_out[is_open] = np.searchsorted(positives, last, side="right") > first
    return is_out


def _merge_duplicates(keep: str, events: pa.Table) -> tuple[pa.Table, int]:
    """One event of each query, candidate and label; how many the others are."""
    keys = _arrays(events, CANDIDATE_ROW, LABEL)
    weights = column(events, WEIGHT).to_numpy()
    if keep == "sum":
        if SPLIT in events.column_names:
            # A sum over given parts would carry what is known of test into train.
            keys.append(column(events, SPLIT).to_numpy())
        events = events.set_column(
            events.column_names.index(WEIGHT), WEIGHT, pa.array(sums_of_duplicates(keys, weights))
        )
    strength = weights if keep == "strongest" else None
    # The last event carries the sum: an earlier one would hold what comes after it.
    return _without(events, duplicated(keys, strength, keep_last=keep in ("last", "sum")))


def duplicated(
    keys: Sequence[np.ndarray], strength: np.ndarray | None = None, *, keep_last: bool = False
) -> np.ndarray:
    """All events but one of those that agree in all keys.

    Args:
        keys: `[n]` int each: query, candidate, label, ...
        strength: `[n]`; only the strongest may be kept. None: all are equal.
        keep_last: Whether the last in the order of events is kept, or the first.

    Returns:
        `[n]` bool.
    """
    by_strength = [] if strength is None else [strength if keep_last else -strength]
    order = np.lexsort([*by_strength, *keys[::-1]])
    starts = groups(*(key[order] for key in keys)).starts
    ends = starts + np.diff(starts, append=len(order))
    chosen = ends - 1 if keep_last else starts
    is_out = np.ones(len(order), bool)
    is_out[order[chosen]] = False
    return is_out


def sums_of_duplicates(keys: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """`[n]` float32: to each event the sum of the weights of those that agree with it in all keys.

    Args:
        keys: `[n]` int each.
        weights: `[n]` float32.
    """
    order = np.lexsort(keys[::-1])
    starts = groups(*(key[order] for key in keys)).starts
    counts = np.diff(starts, append=len(order))
    # In float64, so that the order of the events does not show.
    sums = np.add.reduceat(weights[order].astype(np.float64), starts) if len(order) else weights
    summed = np.empty(len(order), np.float32)
    summed[order] = np.repeat(sums, counts)
    return summed


def _arrays(events: pa.Table, *names: str) -> list[np.ndarray]:
    return [column(events, name).to_numpy() for name in (QUERY, *names)]


def _without(events: pa.Table, is_out: np.ndarray) -> tuple[pa.Table, int]:
    if not is_out.any():
        return events, 0
    return events.filter(pa.array(~is_out)).combine_chunks(), int(is_out.sum())

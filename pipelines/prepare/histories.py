"""What a query had before an event, as gathers from one sorted list of its positives.

All functions read the events of some queries sorted by query and then in their order, and answer
with positions in a list of positives: `[n, length]` integers, oldest first, then -1 for padding.
"""

from typing import NamedTuple

import numpy as np

NOTHING = -1


class Groups(NamedTuple):
    """Runs of equal values in a sorted array."""

    starts: np.ndarray  # [num_groups] int64, first position of each run
    of: np.ndarray  # [n] int64, run of each position


def groups(*keys: np.ndarray) -> Groups:
    """Finds the runs in which all keys stay the same."""
    size = len(keys[0])
    changes = np.zeros(size, bool)
    changes[:1] = True
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    return Groups(np.flatnonzero(changes), np.cumsum(changes) - 1)


def before_each(
    queries: np.ndarray, moments: Groups, is_positive: np.ndarray, length: int
) -> np.ndarray:
    """The last positives of the query strictly before each event.

    Args:
        queries: `[n]` int, ascending.
        moments: Runs of events of one query that have no before and after among them.
        is_positive: `[n]` bool.
        length: How many at most.

    Returns:
        `[n, length]` positions among the positives.
    """
    before = np.concatenate([[0], np.cumsum(is_positive)])
    first = before[groups(queries).starts][groups(queries).of] if len(queries) else before[:0]
    end = before[moments.starts][moments.of] if len(queries) else before[:0]
    return _windows(np.maximum(first, end - length), end, length)


def at_end(
    queries: np.ndarray, is_positive: np.ndarray, num_queries: int, length: int
) -> np.ndarray:
    """The last positives of each query.

    Args:
        queries: `[n]` int, ascending, below `num_queries`.
        is_positive: `[n]` bool.
        num_queries: Queries, those without event included.
        length: How many at most.

    Returns:
        `[num_queries, length]` positions among the positives.
    """
    end = np.cumsum(np.bincount(queries[is_positive], minlength=num_queries))
    first = np.concatenate([[0], end[:-1]]) if num_queries else end
    return _windows(np.maximum(first, end - length), end, length)


def leaving_out(
    queries: np.ndarray,
    candidate_rows: np.ndarray,
    pair_hashes: np.ndarray,
    is_train_positive: np.ndarray,
    is_left_out: np.ndarray,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The query's train positives but the event's own candidate, for data without times.

    Args:
        queries: `[n]` int, ascending.
        candidate_rows: `[n]` int.
        pair_hashes: `[n]` uint64 hash of query and candidate, which orders the list.
        is_train_positive: `[n]` bool.
        is_left_out: `[n]` bool, whether the event's own candidate is to be left out.
        length: How many at most.

    Returns:
        `[m]` int64 positions of events, the list of distinct train positives of each query by
        query and hash; and `[n, length]` positions in it.
    """
    listed = np.flatnonzero(is_train_positive)
    order = np.lexsort((candidate_rows[listed], pair_hashes[listed], queries[listed]))
    listed = listed[order]
    pairs = groups(queries[listed], candidate_rows[listed])
    listed = listed[pairs.starts]
    first = np.searchsorted(queries[listed], queries, side="left")
    end = np.searchsorted(queries[listed], queries, side="right")
    own = _position_of_pair(queries, candidate_rows, listed, is_left_out)
    positions = first[:, np.newaxis] + np.arange(length)
    positions += (own[:, np.newaxis] >= 0) & (positions >= own[:, np.newaxis])
    return listed, np.where(positions < end[:, np.newaxis], positions, NOTHING)


def _position_of_pair(
    queries: np.ndarray, candidate_rows: np.ndarray, listed: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """`[n]` position in the list of each event's query and candidate; -1 where not there."""
    own = np.full(len(queries), NOTHING, np.int64)
    if not len(listed):
        return own
    width = int(candidate_rows.max()) + 1
    keys = queries.astype(np.int64) * width + candidate_rows
    order = np.argsort(keys[listed])
    sorted_keys = keys[listed][order]
    places = np.minimum(np.searchsorted(sorted_keys, keys), len(listed) - 1)
    is_there = wanted & (sorted_keys[places] == keys)
    own[is_there] = order[places[is_there]]
    return own


def _windows(first: np.ndarray, end: np.ndarray, length: int) -> np.ndarray:
    positions = first.astype(np.int32)[:, np.newaxis] + np.arange(length, dtype=np.int32)
    return np.where(positions < end[:, np.newaxis], positions, np.int32(NOTHING))

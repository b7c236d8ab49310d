"""Which split an event belongs to. Pure functions of the event and of two cut-offs."""

from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from pipelines.io.tables import mix, share
from pipelines.prepare.histories import groups
from tfrs_twotower.schema import SPLITS
from tfrs_twotower.schema.split import Split

TRAIN, VALIDATION, TEST = range(len(SPLITS))
IN_GAP = len(SPLITS)  # In none of them.
CODES = (TRAIN, VALIDATION, TEST, IN_GAP)
NEVER = np.iinfo(np.int64).max
SALT_RANDOM, SALT_HOLD_OUT = 1, 2


class Cutoffs(NamedTuple):
    """The first second of validation and the first of test; `NEVER` where a split is empty."""

    validation_s: int
    test_s: int


class Histogram(NamedTuple):
    """How many events each second has."""

    seconds: np.ndarray  # [n] int64, ascending, distinct
    counts: np.ndarray  # [n] int64


def histogram(timestamps: np.ndarray) -> Histogram:
    """Counts the events of each second."""
    return Histogram(*np.unique(timestamps, return_counts=True))


def cutoffs_by_time(events: Histogram, validation: float, test: float) -> Cutoffs:
    """Cut-offs by quantile of events.

    With `N` events in the order of their times, validation begins at the time of the event of
    rank `floor((1 - validation - test) * N)`, test at that of rank `floor((1 - test) * N)`,
    ranks from 0; events of the same second stay together.

    Args:
        events: All events.
        validation: Share of events that validate.
        test: Share of events that test.

    Returns:
        The cut-offs.
    """
    # As decimal fractions, as the user wrote them: 1 - 0.1 - 0.1 is 0.8.
    held_out = Fraction(str(validation)) + Fraction(str(test))
    cumulative = np.cumsum(events.counts)
    total = int(cumulative[-1]) if len(cumulative) else 0

    def second_at(share_before: Fraction) -> int:
        rank = int(share_before * total)
        position = int(np.searchsorted(cumulative, rank, side="right"))
        return int(events.seconds[position]) if rank < total else NEVER

    return Cutoffs(second_at(1 - held_out), second_at(1 - Fraction(str(test))))


def cutoffs_by_date(validation_from: date, test_from: date) -> Cutoffs:
    """Cut-offs at 00:00 UTC of two days."""

    def midnight(day: date) -> int:
        return int(datetime.combine(day, time(), UTC).timestamp())

    return Cutoffs(midnight(validation_from), midnight(test_from))


def assign_splits(
    rule: Split,
    cutoffs: Cutoffs,
    *,
    timestamps: np.ndarray,
    queries: np.ndarray,
    pair_hashes: np.ndarray,
    given: np.ndarray | None,
) -> np.ndarray:
    """Assigns each event of some queries its split.

    Args:
        rule: How to split.
        cutoffs: For splits by time or date.
        timestamps: `[n]` int64 seconds; all events of a query, sorted by query and then in their
            order.
        queries: `[n]` int, ascending; equal for the events of a query.
        pair_hashes: `[n]` uint64 hash of the query's and the candidate's id.
        given: `[n]` int8 splits of pre-split data.

    Returns:
        `[n]` int8 of `CODES`; those below `IN_GAP` are positions in `SPLITS`.
    """
    if rule.by in ("time", "dates"):
        splits = (timestamps >= cutoffs.validation_s).astype(np.int8)
        splits[timestamps >= cutoffs.test_s] = TEST
        for first_s in cutoffs:
            splits[(first_s - rule.gap_s <= timestamps) & (timestamps < first_s)] = IN_GAP
        return splits
    if rule.by == "leave_last_out":
        return _leave_last_out(queries)
    if rule.by == "temporal_user":
        return _temporal_user(queries, rule)
    if rule.by == "random":
        hashes = mix(pair_hashes, timestamps.astype(np.uint64), _salt(pair_hashes, SALT_RANDOM))
        place = share(hashes)
        splits = (place >= 1 - rule.validation - rule.test).astype(np.int8)
        splits[place >= 1 - rule.test] = TEST
        return splits
    assert given is not None
    held_out = share(mix(pair_hashes, _salt(pair_hashes, SALT_HOLD_OUT))) < rule.hold_out
    return np.where((given == TRAIN) & held_out, VALIDATION, given).astype(np.int8)


def _leave_last_out(queries: np.ndarray) -> np.ndarray:
    num_events, from_end = _places(queries)
    has_enough = num_events >= 3
    splits = np.full(len(queries), TRAIN, np.int8)
    splits[has_enough & (from_end == 1)] = VALIDATION
    splits[has_enough & (from_end == 0)] = TEST
    return splits


def _temporal_user(queries: np.ndarray, rule: Split) -> np.ndarray:
    num_events, from_end = _places(queries)
    num_test, num_validation = (
        num_events * fraction.numerator // fraction.denominator
        for fraction in (Fraction(str(rule.test)), Fraction(str(rule.validation)))
    )
    splits = np.full(len(queries), TRAIN, np.int8)
    splits[from_end < num_test + num_validation] = VALIDATION
    splits[from_end < num_test] = TEST
    return splits


def _places(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`[n]` events of each event's query, and `[n]` how many of them come behind it."""
    starts, of = groups(queries)
    counts = np.diff(starts, append=len(queries))
    return counts[of], starts[of] + counts[of] - 1 - np.arange(len(queries))


def _salt(like: np.ndarray, salt: int) -> np.ndarray:
    return np.full(len(like), salt, np.uint64)

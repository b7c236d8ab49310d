"""Looks for leaks of the future in what is about to be written: slow, simple and independent.

The job finds histories by sorting and gathering whole partitions. Here the events of a few queries
are gone through one by one, straight from the definition.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from pipelines.examples import Examples
from pipelines.split import TEST, TRAIN, VALIDATION, Cutoffs
from pipelines.tables import column, hash_ids, share
from pipelines.validate import ORDER, QUERY_ID

SAMPLED_QUERIES = 1000
DIGEST_MODULUS = 2**62

HISTORY, SPLIT, TRAIN_COUNTS = "history", "split", "train_counts"
CHECKS = (HISTORY, SPLIT, TRAIN_COUNTS)
"""What is looked at: histories, the sides of the cut-offs, and the counts of the train part."""


class Audit(NamedTuple):
    """What was looked at, and how often it was not as it must be."""

    checked: Counter[str]
    violations: Counter[str]


def sampled(examples: Examples, num_queries: int) -> np.ndarray:
    """Positions of the examples of about `SAMPLED_QUERIES` queries, chosen by hash of the id."""
    places = share(hash_ids(column(examples.partition.queries, QUERY_ID)))
    chosen = places * max(num_queries, 1) < SAMPLED_QUERIES
    return np.flatnonzero(chosen[examples.of_query])


def audit_examples(
    examples: Examples, history_rows: np.ndarray, cutoffs: Cutoffs, positions: np.ndarray
) -> Audit:
    """Checks the histories and splits of some examples.

    A history must be the last positives of the query before the example; in data without times,
    train positives of the query without the train example's own candidate. An example must be on
    its side of the cut-offs; where each query is split by itself, its
    splits must not overlap.

    Args:
        examples: Of a partition; all examples of the chosen queries are looked at.
        history_rows: `[num_examples, length]` catalogue rows, -1 for padding.
        cutoffs: Of the split.
        positions: `[n]` positions of the examples to check, all of each query or none.

    Returns:
        Examples checked and violations, by check.
    """
    audit = Audit(Counter(), Counter())
    by_query: dict[int, list[int]] = {}
    for position in positions.tolist():
        by_query.setdefault(int(examples.of_query[position]), []).append(position)
    keys = _keys(examples)
    for own in by_query.values():
        for position in own:
            found = [row for row in history_rows[position].tolist() if row >= 0]
            audit.checked[HISTORY] += 1
            is_right = (
                _is_history(examples, keys, own, position, found, history_rows.shape[1])
                if examples.config.has_order
                else _leaves_target_out(examples, own, position, found)
            )
            audit.violations[HISTORY] += not is_right
            audit.checked[SPLIT] += 1
            audit.violations[SPLIT] += not _is_on_its_side(examples, keys, cutoffs, own, position)
    return audit


def _keys(examples: Examples) -> list[tuple[int, int, int]]:
    """What says which of two events of a query came first."""
    events = examples.partition.events
    orders = np.zeros(events.num_rows, np.int64)
    if ORDER in events.column_names:
        orders = column(events, ORDER).to_numpy()
    arrays = (examples.timestamps, orders, examples.catalogue_rows)
    return list(zip(*(array.tolist() for array in arrays), strict=True))


def _is_history(
    examples: Examples,
    keys: list[tuple[int, int, int]],
    own: list[int],
    position: int,
    found: list[int],
    length: int,
) -> bool:
    before = [p for p in own if keys[p] < keys[position] and examples.labels[p] == 1]
    before.sort(key=lambda p: keys[p])
    last = before[max(len(before) - length, 0) :]
    return found == [int(examples.catalogue_rows[p]) for p in last]


def _leaves_target_out(examples: Examples, own: list[int], position: int, found: list[int]) -> bool:
    allowed = {
        int(examples.catalogue_rows[p])
        for p in own
        if examples.splits[p] == TRAIN and examples.labels[p] == 1
    }
    if examples.splits[position] == TRAIN:
        allowed.discard(int(examples.catalogue_rows[position]))
    return set(found) <= allowed and len(set(found)) == len(found)


def _is_on_its_side(
    examples: Examples,
    keys: list[tuple[int, int, int]],
    cutoffs: Cutoffs,
    own: list[int],
    position: int,
) -> bool:
    split, rule = int(examples.splits[position]), examples.config.split.by
    if rule in ("time", "dates"):
        second = int(examples.timestamps[position])
        expected = TEST if second >= cutoffs.test_s else VALIDATION
        return split == (TRAIN if second < cutoffs.validation_s else expected)
    if rule in ("leave_last_out", "temporal_user"):
        return all(keys[position] <= keys[p] for p in own if int(examples.splits[p]) > split)
    return True


def train_digest(catalogue_hashes: np.ndarray, counts: np.ndarray) -> int:
    """A number that says which candidates were counted how often, for two counts to be compared.

    Args:
        catalogue_hashes: `[n]` uint64.
        counts: `[n]` how often each was counted.

    Returns:
        Sum of hash times count, modulo `DIGEST_MODULUS`: sums of parts agree with the whole.
    """
    products = catalogue_hashes * counts.astype(np.uint64)
    return int(np.sum(products, dtype=np.uint64)) % DIGEST_MODULUS

"""Looks for leaks of the future in what is about to be written: slow, simple and independent.

The job finds histories and aggregates by sorting and searching whole partitions. Here the events of
a few queries and candidates are gone through one by one, straight from the definition.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipelines.io.tables import column, hash_ids, share
from pipelines.prepare.aggregates import Events
from pipelines.prepare.examples import Examples
from pipelines.prepare.histories import groups
from pipelines.prepare.split import IN_GAP, TEST, TRAIN, VALIDATION, Cutoffs
from pipelines.prepare.validate import FEATURE, ORDER, QUERY_ID
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Aggregate

SAMPLED_ENTITIES = 1000
EVENTS_OF_ENTITY = 16
SECONDS_PER_DAY = 86_400
SAME_MEAN = 1e-5  # Of the largest value: float32, and sums in another order.
DIGEST_MODULUS = 2**62

HISTORY, SPLIT, AGGREGATE = "history", "split", "aggregate"
TRAIN_COUNTS = "train_counts"
CHECKS = (HISTORY, SPLIT, AGGREGATE, TRAIN_COUNTS)
"""What is looked at: histories, the sides of the cut-offs, aggregates, and the counts of train."""


class Audit(NamedTuple):
    """What was looked at, and how often it was not as it must be."""

    checked: Counter[str]
    violations: Counter[str]


def sampled(examples: Examples, num_queries: int) -> np.ndarray:
    """Positions of the examples of the sampled queries, see `is_sampled`."""
    hashes = hash_ids(column(examples.partition.queries, QUERY_ID))
    return np.flatnonzero(is_sampled(hashes, num_queries)[examples.of_query])


def is_sampled(hashes: np.ndarray, num_entities: int) -> np.ndarray:
    """`[n]` bool: which ids to look at, about `SAMPLED_ENTITIES` of all.

    Args:
        hashes: `[n]` uint64 of some ids.
        num_entities: How many ids there are in all.
    """
    return share(hashes) * max(num_entities, 1) < SAMPLED_ENTITIES


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
    by_query: dict[int, list[_Example]] = {}
    for example in _examples_at(examples, positions):
        by_query.setdefault(example.query, []).append(example)
    for own in by_query.values():
        is_right_history = (
            _histories_before(own, history_rows.shape[1])
            if examples.config.has_order
            else _histories_without_targets(own)
        )
        is_on_its_side = _sides(examples.config, cutoffs, own)
        for example in own:
            found = [row for row in history_rows[example.position].tolist() if row >= 0]
            audit.checked[HISTORY] += 1
            audit.violations[HISTORY] += not is_right_history(example, found)
            audit.checked[SPLIT] += 1
            audit.violations[SPLIT] += not is_on_its_side(example)
    return audit


class _Example(NamedTuple):
    position: int
    query: int
    moment: tuple[int, int, int]  # Says which of two events of a query came first; see `_row`.
    split: int
    is_positive: bool


def _row(moment: tuple[int, int, int]) -> int:
    """The candidate of an event: of events at one time the catalogue row says which is first."""
    return moment[-1]


def _examples_at(examples: Examples, positions: np.ndarray) -> Iterator[_Example]:
    events = examples.partition.events
    orders = np.zeros(events.num_rows, np.int64)
    if ORDER in events.column_names:
        orders = column(events, ORDER).to_numpy()
    keys = (examples.timestamps, orders, examples.catalogue_rows)
    moments = zip(*(key[positions].tolist() for key in keys), strict=True)
    others = (examples.splits, examples.is_positive)
    return map(
        _Example,
        positions.tolist(),
        examples.of_query[positions].tolist(),
        moments,
        *(values[positions].tolist() for values in others),
    )


def _histories_before(
    own: Sequence[_Example], length: int
) -> Callable[[_Example, list[int]], bool]:
    """Whether rows are the last positives of the query before one of its examples."""
    # Sorted once: a query may have as many events as it likes.
    positives = sorted(example.moment for example in own if example.is_positive)

    def is_right(example: _Example, found: list[int]) -> bool:
        end = bisect_left(positives, example.moment)
        return found == list(map(_row, positives[max(end - length, 0) : end]))

    return is_right


def _histories_without_targets(own: Sequence[_Example]) -> Callable[[_Example, list[int]], bool]:
    """Whether rows are distinct train positives of the query without an example's own candidate."""
    allowed = {_row(one.moment) for one in own if one.split == TRAIN and one.is_positive}

    def is_right(example: _Example, found: list[int]) -> bool:
        rows = set(found)
        has_target = example.split == TRAIN and _row(example.moment) in rows
        return rows <= allowed and len(rows) == len(found) and not has_target

    return is_right


def _sides(config: Config, cutoffs: Cutoffs, own: Sequence[_Example]) -> Callable[[_Example], bool]:
    """Whether an example of a query is on its side of the cut-offs."""
    first = {
        split: min((one.moment for one in own if one.split > split), default=None)
        for split in (TRAIN, VALIDATION, TEST)
    }

    def is_right(example: _Example) -> bool:
        if config.split.by in ("time", "dates"):
            second = example.moment[0]
            if any(0 < first_s - second <= config.split.gap_s for first_s in cutoffs):
                return example.split == IN_GAP
            expected = TEST if second >= cutoffs.test_s else VALIDATION
            return example.split == (TRAIN if second < cutoffs.validation_s else expected)
        if config.split.by in ("leave_last_out", "temporal_user"):
            later = first[example.split]
            return later is None or example.moment <= later
        return True

    return is_right


def spread(events: Events, entities: np.ndarray) -> np.ndarray:
    """Positions of up to `EVENTS_OF_ENTITY` events of each of some entities, spread over time."""
    own = np.flatnonzero(np.isin(events.entities, entities))
    own = own[np.lexsort([events.timestamps[own], events.entities[own]])]
    starts = groups(events.entities[own]).starts
    ends = np.append(starts, len(own))[1:]
    places = [
        np.unique(np.linspace(start, end - 1, EVENTS_OF_ENTITY).astype(int))
        for start, end in zip(starts, ends, strict=True)
    ]
    return own[np.concatenate([np.zeros(0, int), *places])]


def audit_aggregates(
    aggregates: Mapping[str, Aggregate], events: Events, positions: np.ndarray, found: pa.Table
) -> Audit:
    """Checks aggregates of some events, each against the other events of its entity.

    Args:
        aggregates: By feature.
        events: All events of their entities.
        positions: `[n]` positions of the events to check.
        found: Among other columns the feature of each aggregate, a row an event.

    Returns:
        Values checked and violations.
    """
    return _audit_moments(
        aggregates,
        events,
        events.entities[positions],
        events.timestamps[positions],
        found.take(pa.array(positions)),
    )


def audit_corpus(
    aggregates: Mapping[str, Aggregate],
    events: Events,
    is_train: np.ndarray,
    last_train_s: int,
    candidate_rows: np.ndarray,
    found: pa.Table,
) -> Audit:
    """Checks aggregates of candidates at the end of train, of which nothing else may be known.

    Args:
        aggregates: By feature.
        events: All events of the candidates, of every split.
        is_train: `[num_events]` bool.
        last_train_s: Second of the last train event of the whole log.
        candidate_rows: `[n]` catalogue rows to check.
        found: The feature of each aggregate, a row a candidate to check.

    Returns:
        Values checked and violations.
    """
    moments = np.full(len(candidate_rows), last_train_s + 1)
    return _audit_moments(aggregates, events.where(is_train), candidate_rows, moments, found)


def _audit_moments(
    aggregates: Mapping[str, Aggregate],
    events: Events,
    entities: np.ndarray,
    moments: np.ndarray,
    found: pa.Table,
) -> Audit:
    audit = Audit(Counter(), Counter())
    values = {name: found.column(FEATURE + name).to_pylist() for name in aggregates}
    for entity in np.unique(entities).tolist():
        own = events.where(events.entities == entity)
        for place in np.flatnonzero(entities == entity).tolist():
            for name, aggregate in aggregates.items():
                audit.checked[AGGREGATE] += 1
                is_right = _is_aggregate(aggregate, own, int(moments[place]), values[name][place])
                audit.violations[AGGREGATE] += not is_right
    return audit


def _is_aggregate(aggregate: Aggregate, own: Events, moment: int, found: float | None) -> bool:
    is_before = own.timestamps < moment
    if aggregate.days is not None:
        is_before &= moment - own.timestamps <= aggregate.days * SECONDS_PER_DAY
    if aggregate.what == "mean":
        number = int(own.valued[is_before].sum())
        if found is None or not number:
            return found is None and not number
        mean = float(own.sums[is_before].sum()) / number
        largest = float(np.abs(own.sums / np.maximum(own.valued, 1)).max())
        return abs(found - mean) <= SAME_MEAN * largest
    if aggregate.what == "count":
        return found == own.positives[is_before].sum()
    seconds = own.timestamps[is_before & (own.positives > 0)].tolist()
    if found is None or not seconds:
        return found is None and not seconds
    return found == float(np.float32((moment - max(seconds)) / SECONDS_PER_DAY))


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

"""Point-in-time aggregates: what the log says of a query or a candidate before a moment.

Pure functions. Earlier events are found by binary search in sorted keys of entity and second, so
the cost is that of sorting the events, whatever the windows.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from pipelines.io.tables import column
from pipelines.prepare.histories import groups
from pipelines.prepare.validate import FEATURE, LABEL, TIMESTAMP_S, VALUE
from tfrs_twotower.schema.features import Aggregate

SECONDS_PER_DAY = 86_400
SECOND_BITS = 32  # Of a moment before `END_OF_TIME_S`.


class Events(NamedTuple):
    """Events of entities, in any order; an entity is a query or a candidate.

    What counts of several events of one entity and second may be added up in one place.
    """

    entities: np.ndarray  # [n] int, from 0 to below 2^31
    timestamps: np.ndarray  # [n] int64 seconds
    positives: np.ndarray  # [n] int, how many have label 1
    valued: np.ndarray  # [n] int, how many have a value
    sums: np.ndarray  # [n] float64, of the values

    def where(self, chosen: np.ndarray) -> "Events":
        """The events of a mask or of positions."""
        return Events(*(array[chosen] for array in self))


def events_of(table: pa.Table, entity: str) -> Events:
    """The events of a table.

    Args:
        table: With times and labels, and with values where an aggregate reads some.
        entity: The column of the entities.
    """
    values = np.full(table.num_rows, np.nan)
    if VALUE in table.column_names:
        values = column(table, VALUE).to_numpy(zero_copy_only=False)
    entities, timestamps, labels = (
        column(table, name).to_numpy() for name in (entity, TIMESTAMP_S, LABEL)
    )
    is_missing = np.isnan(values)
    positives, valued = ((labels == 1).astype(np.int32), (~is_missing).astype(np.int32))
    return Events(entities, timestamps, positives, valued, np.where(is_missing, 0.0, values))


NO_EVENTS = Events(
    *(np.zeros(0, dtype) for dtype in (np.int32, np.int64, np.int32, np.int32, np.float64))
)


class Moments(NamedTuple):
    """What counts of events, added up by entity, second and kind."""

    sums: Events
    kinds: np.ndarray  # Of each sum.
    places: np.ndarray  # [n] int64: the sum that an event is in.


def by_moment(events: Events, kinds: np.ndarray) -> Moments:
    """Adds up the events of each entity, second and kind.

    Args:
        events: At least one; their order does not show in the sums.
        kinds: `[n]`; events of different kinds are not added up.
    """
    keys = _keys(events.entities, events.timestamps)
    order = np.lexsort([events.sums, kinds, keys])
    starts, of = groups(keys[order], kinds[order])
    places = np.empty(len(order), np.int64)
    places[order] = of
    first = order[starts]
    added = (np.add.reduceat(counts[order], starts, dtype=counts.dtype) for counts in events[2:])
    sums = Events(events.entities[first], events.timestamps[first], *added)
    return Moments(sums, kinds[first], places)


class Log:
    """The events of some entities, to be asked what lay before a moment."""

    def __init__(self, events: Events) -> None:
        """Sorts the events."""
        keys = _keys(events.entities, events.timestamps)
        order = np.lexsort([events.sums, keys])
        positive, valued = (
            order[numbers[order] > 0] for numbers in (events.positives, events.valued)
        )
        self._positives, self._valued = keys[positive], keys[valued]
        self._num_positives = np.append(0, np.cumsum(events.positives[positive]))
        self._num_valued = np.append(0, np.cumsum(events.valued[valued]))
        # Sums that begin anew with each entity do not depend on which others stand beside it.
        sums = pd.Series(events.sums[valued]).groupby(self._valued >> SECOND_BITS).cumsum()
        self._sums = np.append(0.0, sums.to_numpy())

    def before(
        self, aggregate: Aggregate, entities: np.ndarray, timestamps: np.ndarray
    ) -> np.ndarray:
        """Aggregates of entities, each before a moment of its own.

        Args:
            aggregate: What to find.
            entities: `[n]` int; those without events are welcome.
            timestamps: `[n]` int64 seconds from 0 to `END_OF_TIME_S`.

        Returns:
            `[n]` float32, NaN where missing.
        """
        keys, numbers = self._positives, self._num_positives
        if aggregate.what == "mean":
            keys, numbers = self._valued, self._num_valued
        earliest = np.zeros_like(timestamps)
        if aggregate.days is not None:
            earliest = np.maximum(timestamps - aggregate.days * SECONDS_PER_DAY, 0)
        first = np.searchsorted(keys, _keys(entities, earliest))
        end = np.searchsorted(keys, _keys(entities, timestamps))
        counts = numbers[end] - numbers[first]
        if aggregate.what == "count":
            return counts.astype(np.float32)
        found = np.full(len(entities), np.nan, np.float32)
        is_there = counts > 0
        first, end, counts = first[is_there], end[is_there], counts[is_there]
        if aggregate.what == "recency":
            last = keys[end - 1] & ((1 << SECOND_BITS) - 1)
            found[is_there] = (timestamps[is_there] - last) / SECONDS_PER_DAY
        else:
            begins = np.searchsorted(keys, _keys(entities[is_there], 0))
            before = np.where(first > begins, self._sums[first], 0.0)
            found[is_there] = (self._sums[end] - before) / counts
        return found

    def columns(
        self,
        aggregates: Mapping[str, Aggregate],
        entities: np.ndarray,
        timestamps: np.ndarray,
    ) -> dict[str, pa.Array]:
        """The feature columns of several aggregates, in canonical form: null where missing."""
        return {
            FEATURE + name: pa.array(self.before(aggregate, entities, timestamps), from_pandas=True)
            for name, aggregate in aggregates.items()
        }


def _keys(entities: np.ndarray, timestamps: np.ndarray | int) -> np.ndarray:
    return (entities.astype(np.int64) << SECOND_BITS) + timestamps

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
from pipelines.prepare.validate import FEATURE, LABEL, TIMESTAMP_S, VALUE
from tfrs_twotower.schema.features import Aggregate

SECONDS_PER_DAY = 86_400
SECOND_BITS = 32  # Of a moment before `END_OF_TIME_S`.


class Events(NamedTuple):
    """Events of entities, in any order; an entity is a query or a candidate."""

    entities: np.ndarray  # [n] int, from 0 to below 2^31
    timestamps: np.ndarray  # [n] int64 seconds
    labels: np.ndarray  # [n] int
    values: np.ndarray  # [n] float64, NaN where missing

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
    return Events(entities, timestamps, labels, values)


NO_EVENTS = Events(*(np.zeros(0, dtype) for dtype in (np.int32, np.int64, np.int8, np.float64)))


class Log:
    """The events of some entities, to be asked what lay before a moment."""

    def __init__(self, events: Events) -> None:
        """Sorts the events."""
        keys = _keys(events.entities, events.timestamps)
        self._positives = np.sort(keys[events.labels == 1], kind="stable")
        has_value = ~np.isnan(events.values)
        keys, values = keys[has_value], events.values[has_value]
        order = np.lexsort([values, keys])
        self._valued, values = keys[order], values[order]
        # Sums that begin anew with each entity do not depend on which others stand beside it.
        sums = pd.Series(values).groupby(self._valued >> SECOND_BITS).cumsum()
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
        keys = self._valued if aggregate.what == "mean" else self._positives
        earliest = np.zeros_like(timestamps)
        if aggregate.days is not None:
            earliest = np.maximum(timestamps - aggregate.days * SECONDS_PER_DAY, 0)
        first = np.searchsorted(keys, _keys(entities, earliest))
        end = np.searchsorted(keys, _keys(entities, timestamps))
        counts = end - first
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

"""A partition: all events and profiles of the queries whose ids hash to one number.

Everything that looks at a query's past works inside a partition, so its size bounds the memory of
a worker.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column, hash_ids, indices, mix
from pipelines.prepare.validate import (
    CANDIDATE_ROW,
    FEATURE,
    LABEL,
    ORDER,
    QUERY_ID,
    SPLIT,
    TIMESTAMP_S,
    VALUE,
    WEIGHT,
)

QUERY = "query"  # Column of events: position of the query in the partition.


class Partition(NamedTuple):
    """Events and queries of a partition."""

    events: pa.Table  # Sorted by query, timestamp, order, candidate; see `sort_events`.
    queries: pa.Table  # query_id (sorted by bytes, distinct) and the profile's features.


def make_partition(events: pa.Table, profiles: pa.Table) -> Partition:
    """Joins the events of some queries with their profiles.

    Args:
        events: As `validate_events` gives them, with candidate rows; in any order, perhaps none.
        profiles: As `validate_entities` gives them, without duplicates; in any order, perhaps
            none.

    Returns:
        The partition. A query without profile has nulls in its place.
    """
    encoded = column(events, QUERY_ID)
    seen = encoded.dictionary.take(pc.unique(encoded.indices))
    with_profile = column(profiles, QUERY_ID)
    ids = pc.unique(pa.concat_arrays([seen.cast(with_profile.type), with_profile]))
    ids = ids.take(pc.sort_indices(ids))
    of_dictionary = pc.fill_null(pc.index_in(encoded.dictionary, ids), -1)
    queries = of_dictionary.to_numpy()[indices(encoded)].astype(np.int32)
    events = events.drop_columns([QUERY_ID]).add_column(0, QUERY, pa.array(queries))
    places = pc.index_in(ids, with_profile)
    table = pa.table(
        {
            QUERY_ID: ids,
            **{
                name: column(profiles, name).take(places)
                for name in profiles.column_names
                if name != QUERY_ID
            },
        }
    )
    return Partition(sort_events(events), table)


def sort_events(events: pa.Table) -> pa.Table:
    """Sorts events by query, timestamp, order, candidate.

    Events that agree in all four follow in the order of what else they say, so that the result
    depends on the set of events alone.
    """
    keys = [
        column(events, name).to_numpy()
        for name in (QUERY, TIMESTAMP_S, ORDER, CANDIDATE_ROW)
        if name in events.column_names
    ]
    order = np.lexsort(keys[::-1])
    ranked = [key[order] for key in keys]
    if len(order) and np.all([key[1:] == key[:-1] for key in ranked], axis=0).any():
        rest = [
            column(events, name).to_numpy(zero_copy_only=False)
            for name in (LABEL, WEIGHT, SPLIT, VALUE)
            if name in events.column_names
        ]
        order = np.lexsort([_content(events), *rest[::-1], *keys[::-1]])
    return events.take(pa.array(order)).combine_chunks()


def _content(events: pa.Table) -> np.ndarray:
    """`[n]` uint64 hash of the context features."""
    parts = [np.zeros(events.num_rows, np.uint64)]
    for name in events.column_names:
        if not name.startswith(FEATURE):
            continue
        values = column(events, name)
        if pa.types.is_dictionary(values.type):
            parts.append(hash_ids(values.dictionary)[indices(values)])
            continue
        text = values
        if pa.types.is_fixed_size_list(values.type):
            width = values.type.list_size
            flat = pc.fill_null(pc.list_flatten(pc.fill_null(values, [np.nan] * width)), np.nan)
            matrix = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
            parts += [np.ascontiguousarray(c).view(np.uint32).astype(np.uint64) for c in matrix.T]
            continue
        parts.append(hash_ids(pc.fill_null(pc.cast(text, pa.string()), "")))
    return mix(*parts)


def first_of_each(entities: pa.Table, id_column: str, origin: Sequence[str]) -> np.ndarray:
    """`[n]` bool: whether a row is the first with its id.

    Args:
        entities: Rows in any order.
        id_column: Of the ids.
        origin: Columns whose order says which row comes first.
    """
    keys = [(id_column, "ascending"), *((name, "ascending") for name in origin)]
    order = pc.sort_indices(entities, sort_keys=keys).to_numpy()
    ids = column(entities, id_column).take(pa.array(order))
    is_first = np.ones(len(order), bool)
    if len(order) > 1:
        is_first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    kept = np.zeros(len(order), bool)
    kept[order] = is_first
    return kept

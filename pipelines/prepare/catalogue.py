"""The known candidates: an Arrow table that the processes of a machine share."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column, hash_ids

ID, HASH, HASHES_IN_ORDER, ROW_OF_HASH = "id", "hash", "hashes_in_order", "row_of_hash"


class Catalogue:
    """The known candidate ids, sorted by UTF-8 bytes; a position is a catalogue row.

    Nothing is held beside the table, memory-mapped by every process of a worker: 24 bytes a
    candidate and the text of its id. A hash table of Python strings takes about 120 a process.
    """

    def __init__(self, table: pa.Table) -> None:
        """Takes what `catalogue_table` made."""
        self.ids = column(table, ID)
        self.hashes: np.ndarray = column(table, HASH).to_numpy()  # [n] uint64, see `hash_ids`
        self._hashes_in_order = column(table, HASHES_IN_ORDER).to_numpy()
        self._row_of_hash = column(table, ROW_OF_HASH).to_numpy()

    def __len__(self) -> int:
        """Known candidates."""
        return len(self.ids)

    def rows(self, ids: pa.Array) -> np.ndarray:
        """`[n]` int32 catalogue rows of ids; -1 where unknown."""
        rows = np.full(len(ids), -1, np.int32)
        hashes = hash_ids(ids)
        places = np.searchsorted(self._hashes_in_order, hashes)
        open_ = np.arange(len(ids))
        while True:
            # One round, unless several candidates have the hash of an id.
            open_ = open_[places[open_] < len(self)]
            open_ = open_[self._hashes_in_order[places[open_]] == hashes[open_]]
            if not len(open_):
                return rows
            found = self._row_of_hash[places[open_]]
            is_same = _equal(self.ids.take(pa.array(found)), ids.take(pa.array(open_)))
            rows[open_[is_same]] = found[is_same]
            open_ = open_[~is_same]
            places[open_] += 1


def catalogue_table(ids: pa.Array) -> pa.Table:
    """The table of a catalogue of distinct ids that are sorted by their UTF-8 bytes."""
    hashes = hash_ids(ids)
    order = np.argsort(hashes, kind="stable")
    return pa.table(
        {
            ID: ids,
            HASH: pa.array(hashes),
            HASHES_IN_ORDER: pa.array(hashes[order]),
            ROW_OF_HASH: pa.array(order, pa.int32()),
        }
    )


def _equal(ids: pa.Array, others: pa.Array) -> np.ndarray:
    return pc.equal(ids, others.cast(ids.type)).to_numpy(zero_copy_only=False).astype(bool)

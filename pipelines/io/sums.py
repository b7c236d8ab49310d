"""Tables of many workers, added up to one by key."""

from collections.abc import Iterable, Sequence

import apache_beam as beam
import pyarrow as pa

from pipelines.io.tables import from_ipc, joined

TABLES_A_TIME = 64  # That are joined before rows of the same key are added up.


class SumByKey(beam.CombineFn):
    """Tables, as IPC streams, -> one with a row for each distinct key, in any order.

    What is held grows with the distinct keys, not with the tables.
    """

    def __init__(self, summed: Sequence[str] = ()) -> None:
        """Names the columns that are added up; all others together are the key."""
        super().__init__()
        self._summed = list(summed)

    def create_accumulator(self) -> list[pa.Table]:
        """Nothing."""
        return []

    def add_input(self, tables: list[pa.Table], data: bytes) -> list[pa.Table]:
        """Adds a table."""
        tables.append(from_ipc(data))
        return self.compact(tables) if len(tables) >= TABLES_A_TIME else tables

    def merge_accumulators(self, accumulators: Iterable[list[pa.Table]]) -> list[pa.Table]:
        """Adds tables that were added apart."""
        merged: list[pa.Table] = []
        for tables in accumulators:
            merged += tables
            if len(merged) >= TABLES_A_TIME:
                merged = self.compact(merged)
        return merged

    def compact(self, tables: list[pa.Table]) -> list[pa.Table]:
        """One table in place of several, before they travel."""
        return [self.extract_output(tables)] if tables else []

    def extract_output(self, tables: list[pa.Table]) -> pa.Table:
        """The whole."""
        table = joined(tables)
        keys = [name for name in table.column_names if name not in self._summed]
        sums = table.group_by(keys).aggregate([(name, "sum") for name in self._summed])
        return sums.rename_columns([*keys, *self._summed]).combine_chunks()

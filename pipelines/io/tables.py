"""Arrow tables as Beam elements, stable hashes of ids, and tables cut into partitions."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

# Of every hash that decides where a row goes; another key would be another, equally valid, split.
HASH_KEY = "tfrs-two-tower-1"
HASHED_AT_ONCE = 1 << 18
MAX_TEXT_BYTES = (1 << 31) - 1  # Of an Arrow array of strings, whose offsets have 32 bits.


def to_ipc(table: pa.Table, compression: str | None = None) -> bytes:
    """An Arrow IPC stream of a table; `compression` of its buffers may be "zstd" or "lz4"."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.Table:
    """The table of an Arrow IPC stream."""
    return pa.ipc.open_stream(data).read_all()


def concat(pieces: Iterable[bytes]) -> pa.Table:
    """One table of many IPC streams; see `joined`."""
    return joined([from_ipc(piece) for piece in pieces])


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of many, one chunk a column; dictionaries are unified.

    Text of more than `MAX_TEXT_BYTES` becomes `large_string`.
    """
    # "permissive": text of some tables may be large already.
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and table.column(place).nbytes > MAX_TEXT_BYTES:
            large = table.column(place).cast(pa.large_string())
            table = table.set_column(place, field.name, large)
    return table.combine_chunks()


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    chunks = table.column(name)
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def hash_ids(ids: pa.Array) -> np.ndarray:
    """`[n]` uint64 hashes of strings, the same in every process and on every machine."""
    hashes = np.empty(len(ids), np.uint64)
    # In slices: Python objects of all ids of a catalogue would take several times its memory.
    for start in range(0, len(ids), HASHED_AT_ONCE):
        piece = ids[start : start + HASHED_AT_ONCE].to_numpy(zero_copy_only=False)
        values = np.asarray(piece, object)
        hashes[start : start + len(piece)] = pd.util.hash_array(
            values, hash_key=HASH_KEY, categorize=False
        )
    return hashes


def buckets(ids: pa.Array, num_buckets: int) -> np.ndarray:
    """`[n]` int64 numbers of the buckets of strings, from 0: equal ones are in the same."""
    return (hash_ids(ids) % np.uint64(num_buckets)).astype(np.int64)


def mix(*hashes: np.ndarray) -> np.ndarray:
    """`[n]` uint64 hash of several uint64 hashes a row (splitmix64 over their running sum)."""
    mixed = np.zeros_like(hashes[0])
    for part in hashes:
        mixed = mixed + part.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return mixed


def share(hashes: np.ndarray) -> np.ndarray:
    """`[n]` float64 in [0, 1): uint64 hashes as a place in the unit interval."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def dictionary(strings: pa.Array) -> pa.DictionaryArray:
    """Strings as a dictionary array; one that is so already is left."""
    if pa.types.is_dictionary(strings.type):
        return strings
    return pc.dictionary_encode(strings)


def indices(encoded: pa.DictionaryArray) -> np.ndarray:
    """`[n]` int32 positions in the dictionary."""
    return encoded.indices.to_numpy(zero_copy_only=False)


def partition(
    table: pa.Table, ids: pa.DictionaryArray, num_partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table by the hash of an id a row.

    Args:
        table: `n` rows.
        ids: `n` ids, no nulls.
        num_partitions: In how many parts.

    Yields:
        Number of the partition and its rows, in their order; empty parts are left out.
    """
    of_ids = buckets(ids.dictionary, num_partitions)
    for number, part in pieces_by(table, of_ids[indices(ids)]):
        yield number, _compact(part)


def pieces_by(table: pa.Table, numbers: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Cuts a table by a number a row: each number that occurs and its rows, in their order."""
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(np.bincount(numbers))
    start = 0
    for number, end in enumerate(ends.tolist()):
        if end > start:
            yield number, table.take(pa.array(order[start:end]))
        start = end


def _compact(table: pa.Table) -> pa.Table:
    """Leaves out of dictionaries what no row names: a part would carry those of the whole."""
    for place, name in enumerate(table.column_names):
        values = column(table, name)
        if pa.types.is_dictionary(values.type) and len(values.dictionary) > len(values) // 2:
            used = pc.unique(values.indices)
            codes = pc.index_in(values.indices, used)
            compacted = pa.DictionaryArray.from_arrays(codes, values.dictionary.take(used))
            table = table.set_column(place, name, compacted)
    return table

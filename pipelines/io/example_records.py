"""Arrays -> framed `tf.train.Example` records, many at a time.

All records of one layout have the same number of bytes, so a block of them is a matrix: the parts
that never change are broadcast, the values are written column by column, and the checksums of the
TFRecord framing, linear in the bits, are sums of one table look-up a byte that changes. This
writes more than ten times the records that `tf.io.encode_proto` does: `benchmarks/records.py`.

Integers take a fixed number of bytes: a varint may have leading zeros, which every protobuf reader
accepts. The widths must depend on the whole data set alone, never on a batch.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

INT, FLOAT, BYTES = "int64_list", "float_list", "bytes_list"
# Field numbers of `tf.train.Feature` with wire type 2.
FEATURE_TAGS = {BYTES: 0x0A, FLOAT: 0x12, INT: 0x1A}
FIRST_FIELD, SECOND_FIELD = 0x0A, 0x12
CONTINUES, SEVEN_BITS = 0x80, 0x7F

CASTAGNOLI = 0x82F63B78
MASK_DELTA = 0xA282EAD8
HEADER_BYTES, FOOTER_BYTES = 12, 4
BLOCK_ROWS = 4096


class Field(NamedTuple):
    """One feature of the records."""

    name: str
    kind: str  # INT, FLOAT or BYTES.
    length: int  # Values a record; of BYTES: bytes of the one value.
    width: int = 1  # Of INT: bytes a value takes, see `int_width`.

    @property
    def num_bytes(self) -> int:
        """Of the values of one record."""
        return self.length * {INT: self.width, FLOAT: 4, BYTES: 1}[self.kind]


class _Slot(NamedTuple):
    """Where the values of a field stand in a framed record."""

    field: Field
    start: int
    num_bytes: int


def int_width(largest: int) -> int:
    """Bytes of the varint of the largest value of a field, which must not be negative."""
    return max(1, -(-int(largest).bit_length() // 7))


class RecordLayout:
    """How the records of some fields lie in bytes."""

    def __init__(self, fields: Sequence[Field]) -> None:
        """Lays the fields out, sorted by name."""
        self.fields = tuple(sorted(fields))
        entries, slots, position = [], [], 0
        sizes = []
        for field in self.fields:
            entry, start, num_bytes = _entry(field)
            sizes.append((field, len(entry), start, num_bytes))
            entries.append(entry)
        features = b"".join(entries)
        example = bytes([FIRST_FIELD]) + _varint(len(features)) + features
        position = HEADER_BYTES + len(example) - len(features)
        for field, size, start, num_bytes in sizes:
            slots.append(_Slot(field, position + start, num_bytes))
            position += size
        self._slots = slots
        length = len(example).to_bytes(8, "little")
        header = length + _masked(np.array([_crc(length)], np.uint32)).tobytes()
        self._template = np.frombuffer(header + example + bytes(FOOTER_BYTES), np.uint8)
        self._blank_crc = np.uint32(_crc(example))
        self._tables = _crc_tables(len(example))

    @property
    def record_bytes(self) -> int:
        """Bytes of a framed record."""
        return len(self._template)

    def encode(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Encodes and frames records.

        Args:
            values: By field: INT `[n, length]` or `[n]` integers from 0 on that fit the width,
                FLOAT likewise float32, BYTES `[n]` fixed-width bytes (`S<length>`).

        Returns:
            `[n, record_bytes]` uint8, one TFRecord a row.
        """
        num_rows = len(values[self.fields[0].name])
        framed = np.empty((num_rows, self.record_bytes), np.uint8)
        for start in range(0, num_rows, BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            self._encode_block(
                {field.name: values[field.name][block] for field in self.fields}, framed[block]
            )
        return framed

    def _encode_block(self, values: Mapping[str, np.ndarray], framed: np.ndarray) -> None:
        framed[:] = self._template
        crc = np.full(len(framed), self._blank_crc, np.uint32)
        for field, start, num_bytes in self._slots:
            if not num_bytes:
                continue
            payload = value_bytes(field, values[field.name])
            framed[:, start : start + num_bytes] = payload
            first = start - HEADER_BYTES
            tables = self._tables[first : first + num_bytes].reshape(-1)
            places = payload + np.arange(0, 256 * num_bytes, 256, dtype=np.int32)
            crc ^= np.bitwise_xor.reduce(tables[places], axis=1)
        framed[:, -FOOTER_BYTES:] = _masked(crc)[:, np.newaxis].view(np.uint8)


def value_bytes(field: Field, values: np.ndarray) -> np.ndarray:
    """`[n, num_bytes]` uint8: the bytes of a field's values, `[n, length]` or `[n]`."""
    num_rows = len(values)
    if field.kind == BYTES:
        return values.astype(f"S{field.length}").view(np.uint8).reshape(num_rows, field.length)
    if field.kind == FLOAT:
        flat = np.ascontiguousarray(values, "<f4").reshape(num_rows, field.length)
        return flat.view(np.uint8)
    flat = values.reshape(num_rows, field.length)
    flat = flat.astype(np.uint32 if field.width <= 4 else np.uint64, copy=False)
    payload = np.empty((num_rows, field.length, field.width), np.uint8)
    for byte in range(field.width):
        septet = (flat >> (7 * byte)).astype(np.uint8)
        is_last = byte == field.width - 1
        payload[:, :, byte] = septet & SEVEN_BITS if is_last else septet | CONTINUES
    return payload.reshape(num_rows, -1)


def _entry(field: Field) -> tuple[bytes, int, int]:
    """A blank entry of the feature map: its bytes, where its values start, bytes of those."""
    num_bytes = field.num_bytes
    blank = bytes(num_bytes)
    feature = message(FEATURE_TAGS[field.kind], message(FIRST_FIELD, blank))
    key = message(FIRST_FIELD, field.name.encode())
    entry = message(FIRST_FIELD, key + message(SECOND_FIELD, feature))
    return entry, len(entry) - num_bytes, num_bytes


def message(tag: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return bytes([tag]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > SEVEN_BITS:
        out.append(value & SEVEN_BITS | CONTINUES)
        value >>= 7
    out.append(value)
    return bytes(out)


def _byte_table() -> np.ndarray:
    """`[256]` uint32: CRC-32C register after one byte, from a register of zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(CASTAGNOLI), table >> 1)
    return table.astype(np.uint32)


BYTE_TABLE = _byte_table()


def _crc(data: bytes) -> int:
    """CRC-32C of a short text."""
    register = 0xFFFFFFFF
    for byte in data:
        register = (register >> 8) ^ int(BYTE_TABLE[(register ^ byte) & 0xFF])
    return register ^ 0xFFFFFFFF


def _crc_tables(length: int) -> np.ndarray:
    """`[length, 256]` uint32: what each byte at each position adds to the checksum of a record."""
    tables = np.empty((length, 256), np.uint32)
    table = BYTE_TABLE
    for position in range(length - 1, -1, -1):
        tables[position] = table
        table = (table >> 8) ^ BYTE_TABLE[table & 0xFF]
    return tables


def _masked(crc: np.ndarray) -> np.ndarray:
    """TFRecord's masking of checksums, which are stored beside the data they cover."""
    rotated = (crc >> np.uint32(15)) | (crc << np.uint32(17))
    return (rotated + np.uint32(MASK_DELTA)).astype("<u4")

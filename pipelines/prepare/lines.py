r"""Where the records of a text buffer begin and end, and which of them are sound.

Byte work on whole buffers: no loop over lines. A record of an interactions file is a line; in
candidates and queries files a quoted CSV value may hold line breaks.
"""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEWLINE, QUOTE = ord("\n"), ord('"')
# A line of CSV whose quotes open and close where they may.
_FIELD = r'(?:"(?:[^"]|"")*"|[^"{0}\r\n]*)'
SOUND_CSV = rf"(?s)^{_FIELD}(?:{{0}}{_FIELD})*\r?\n?$"
BLANK = r"^[ \t\r\n]*$"


class Lines(NamedTuple):
    """Records of a buffer, blank ones left out."""

    records: pa.LargeBinaryArray  # [n], each with its line break
    is_utf8: np.ndarray  # [n] bool
    is_sound: np.ndarray  # [n] bool; False: CSV with quotes or line breaks out of place


def split_lines(
    data: bytes, *, csv: bool, quoted_breaks: bool = False, separator: str = ","
) -> Lines:
    """Finds the records of a buffer.

    Args:
        data: Text; the last record may lack its line break.
        csv: Whether quotes have the meaning of CSV.
        quoted_breaks: Whether a line break inside quotes belongs to the value. Where the quotes
            of the buffer do not balance, every line break ends a record nevertheless.
        separator: Of the fields of CSV.

    Returns:
        The records in their order.
    """
    buffer = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(buffer == NEWLINE)
    has_quotes = csv and QUOTE in data
    if has_quotes and quoted_breaks:
        quotes = np.cumsum(buffer == QUOTE, dtype=np.int64)
        if quotes[-1] % 2 == 0:
            breaks = breaks[quotes[breaks] % 2 == 0]
    ends = breaks + 1
    if len(data) and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    offsets = np.concatenate([np.zeros(1, np.int64), ends.astype(np.int64)])
    records = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    # Only a record that begins with white space or a line break can be blank.
    if len(ends) and np.isin(buffer[offsets[:-1]], np.frombuffer(b" \t\r\n", np.uint8)).any():
        records = records.filter(pc.invert(pc.match_substring_regex(records, BLANK)))
    is_utf8 = np.ones(len(records), bool)
    if not _is_utf8(data):
        is_utf8 = np.array([_is_utf8(record.as_py()) for record in records], bool)
    is_sound = np.ones(len(records), bool)
    # Arrow takes a carriage return alone for the end of a row.
    if csv and (has_quotes or data.count(b"\r") != data.count(b"\r\n")):
        is_sound = _mask(pc.match_substring_regex(records, _sound_csv(separator)))
    return Lines(records, is_utf8, is_sound)


def _sound_csv(separator: str) -> str:
    return SOUND_CSV.format(re.escape(separator))


def joined(records: pa.LargeBinaryArray) -> pa.Buffer:
    """The bytes of consecutive records; a missing last line break stays missing."""
    offsets = np.frombuffer(records.buffers()[1], np.int64)
    first, last = offsets[records.offset], offsets[records.offset + len(records)]
    return records.buffers()[2].slice(int(first), int(last - first))


def as_text(record: bytes) -> str:
    """A record for people: without its line break, bytes that are no UTF-8 replaced."""
    return record.rstrip(b"\r\n").decode("utf-8", "replace")


def _mask(array: pa.BooleanArray) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

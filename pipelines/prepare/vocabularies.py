"""Vocabularies: tokens and counts -> the lines of a file, in a total order."""

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column
from pipelines.prepare.number_statistics import COUNT, VALUE

# TensorFlow reads a token a line and drops carriage returns: such a token has no line.
UNWRITABLE = r"[\r\n]|^$"


class Vocabulary(NamedTuple):
    """The text of a vocabulary file."""

    text: bytes
    num_tokens: int

    @property
    def sha256(self) -> str:
        """Hex digest of the text."""
        return hashlib.sha256(self.text).hexdigest()


def frequent(counts: pa.Table, min_count: int, max_size: int | None) -> pa.Table:
    """The tokens that may stand in a vocabulary, most frequent first, then by their bytes.

    What is frequent among the tokens of each of several parts holds what is frequent among all.

    Args:
        counts: Distinct tokens and counts, in any order.
        min_count: Rarer tokens are left out, and those that no line can hold.
        max_size: How many tokens at most; None: all.
    """
    writable = pc.invert(pc.match_substring_regex(column(counts, VALUE), UNWRITABLE))
    counts = counts.filter(pc.and_(writable, pc.greater_equal(column(counts, COUNT), min_count)))
    counts = counts.sort_by([(COUNT, "descending"), (VALUE, "ascending")])
    return counts.slice(0, max_size).combine_chunks()


def make_vocabulary(counts: pa.Table, min_count: int, max_size: int | None) -> Vocabulary:
    """The vocabulary of distinct tokens; see `frequent`."""
    tokens = column(frequent(counts, min_count, max_size), VALUE).cast(pa.large_string())
    if not len(tokens):
        return Vocabulary(b"", 0)
    # In an array the characters of its texts follow one another: no token becomes an object.
    nothing, line_break = (pa.scalar(text, pa.large_string()) for text in ("", "\n"))
    lines = pc.binary_join_element_wise(tokens, nothing, line_break)
    _, offsets, characters = lines.buffers()
    end = int(np.frombuffer(offsets, np.int64)[len(lines)])
    return Vocabulary(characters.slice(0, end).to_pybytes(), len(tokens))

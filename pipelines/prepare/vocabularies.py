"""Vocabularies: tokens and counts -> the lines of a file, in a total order."""

import hashlib
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column
from pipelines.prepare.number_statistics import COUNT, VALUE, merge_counts

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


def make_vocabulary(counts: pa.Table, min_count: int, max_size: int | None) -> Vocabulary:
    """Orders tokens by count, most frequent first, then by their bytes.

    Args:
        counts: Tokens and counts, in any order; a token may stand in several rows.
        min_count: Rarer tokens are left out.
        max_size: How many tokens at most; None: all.

    Returns:
        The vocabulary. Tokens that hold a line break are left out.
    """
    merged = merge_counts(counts)
    writable = pc.invert(pc.match_substring_regex(column(merged, VALUE), UNWRITABLE))
    merged = merged.filter(pc.and_(writable, pc.greater_equal(column(merged, COUNT), min_count)))
    merged = merged.sort_by([(COUNT, "descending"), (VALUE, "ascending")])
    tokens = merged.column(VALUE).to_pylist()[:max_size]
    return Vocabulary("".join(f"{token}\n" for token in tokens).encode(), len(tokens))

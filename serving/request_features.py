"""What requests give of each feature: missing values, and tokens that no vocabulary lists.

A version tells in its manifest which inputs are features, and which asset is the vocabulary of
each. Where a manifest does not, as those of earlier exports, nothing is counted.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from serving.tensors import TEXT, Array

MANIFEST = Path("assets.extra", "manifest.json")
ASSETS = "assets"
FEATURES = "features"

# Shares of a part are those of the whole; counting every request would take several percent of it.
COUNTED_EVERY = 5


class FeatureCounts(NamedTuple):
    """Of a feature in some queries.

    Attributes:
        given: Queries that have a value.
        missing: Queries that have none: "", no text but "" in a list, NaN, a time of 0 or less.
        known: Tokens of the values that the vocabulary lists; 0 without a vocabulary.
        unknown: Tokens that it does not.
    """

    given: int = 0
    missing: int = 0
    known: int = 0
    unknown: int = 0


class RequestFeatures:
    """The features of a version, and the tokens of its vocabularies. Thread-safe.

    Tokens are kept as hashes, 8 bytes each beside those of the model. Of 2^64 / size unknown tokens
    one has the hash of a known one.
    """

    def __init__(
        self, sources: Mapping[str, str | None], vocabularies: Mapping[str, Sequence[bytes]]
    ) -> None:
        """Takes the features of a version.

        Args:
            sources: By feature the name of its vocabulary; None: it has none.
            vocabularies: By name the tokens.
        """
        # All vocabularies are searched at once: calls of NumPy are most of what counting costs.
        salts = {name: hash(name) for name in vocabularies}
        self._salts = {
            feature: None if name is None else salts[name] for feature, name in sources.items()
        }
        hashes = [hash(t) ^ salts[name] for name, tokens in vocabularies.items() for t in tokens]
        self._known = np.sort(np.array([0, *hashes], np.int64))  # Not empty.
        self._numbers = itertools.count()

    def count_some(self, inputs: Mapping[str, Array]) -> dict[str, FeatureCounts]:
        """Counts the first request and then every fifth, and nothing of the others; see `count`."""
        return {} if next(self._numbers) % COUNTED_EVERY else self.count(inputs)

    def count(self, inputs: Mapping[str, Array]) -> dict[str, FeatureCounts]:
        """Counts a request.

        Args:
            inputs: Of a signature, by name; those that are no features do not count.
        """
        counts: dict[str, FeatureCounts] = {}
        ends: dict[str, int] = {}
        hashes: list[int] = []
        for name, salt in self._salts.items():
            array = inputs.get(name)
            if array is None:
                continue
            num_given, tokens = _values(array)
            counts[name] = FeatureCounts(num_given, len(array) - num_given)
            if salt is not None and tokens:
                hashes += [hash(token) ^ salt for token in tokens]
                ends[name] = len(hashes)
        if not hashes:
            return counts
        asked = np.array(hashes, np.int64)
        nearest = self._known.take(self._known.searchsorted(asked), mode="clip")
        is_known = (nearest == asked).tolist()
        start = 0
        for name, end in ends.items():
            num_known = sum(is_known[start:end])
            given, missing, _, _ = counts[name]
            counts[name] = FeatureCounts(given, missing, num_known, end - start - num_known)
            start = end
        return counts


def read_features(path: str | Path) -> RequestFeatures:
    """The features of a version folder; none where its manifest does not tell them.

    Args:
        path: The folder.

    Raises:
        OSError: If a file is not readable.
        ValueError: If the manifest is damaged.
    """
    manifest = Path(path) / MANIFEST
    sources = {}
    if manifest.exists():
        sources = json.loads(manifest.read_bytes()).get(FEATURES, {})
    files = {file for file in sources.values() if file is not None}
    return RequestFeatures(sources, {file: _tokens(Path(path) / ASSETS / file) for file in files})


def _tokens(path: Path) -> list[bytes]:
    """The lines of a file. TensorFlow saves none for a vocabulary without tokens."""
    return path.read_bytes().removesuffix(b"\n").split(b"\n") if path.exists() else []


def _values(array: Array) -> tuple[int, list[bytes]]:
    """How many rows have a value, and the tokens of all."""
    if array.dtype == TEXT:
        rows = array.tolist()
        if array.ndim > 1:
            return sum(map(any, rows)), [token for row in rows for token in row if token]
        tokens = [token for token in rows if token]
        return len(tokens), tokens
    if array.ndim > 1:  # A vector is missing where all of it is.
        return int(np.count_nonzero((array == array).any(axis=1))), []
    if array.dtype.kind == "f":
        return sum(value == value for value in array.tolist()), []  # NaN does not.
    return sum(value > 0 for value in array.tolist()), []

"""The definition of the prepared folder, one row at a time, for tests to compare with.

Written from the documentation of the layout and the config, not from the pipeline. Vocabularies
have one out-of-vocabulary bucket here: row 0 is missing, 1 unknown, 2 the first token.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf


@dataclass
class Event:
    query: str
    candidate: str
    second: int
    label: int = 1
    weight: float = 1.0
    order: int = 0
    context: dict = field(default_factory=dict)
    split: str = ""
    value: float = float("nan")

    @property
    def key(self):
        return (self.second, self.order, self.candidate.encode())


def split_by_time(events, validation="0.1", test="0.1", gap_s=0):
    ordered = sorted(event.second for event in events)
    total = len(ordered)
    starts = []
    for share in (1 - Fraction(validation) - Fraction(test), 1 - Fraction(test)):
        rank = int(share * total)
        starts.append(ordered[rank] if rank < total else float("inf"))
    for event in events:
        event.split = "train"
        if event.second >= starts[0]:
            event.split = "validation"
        if event.second >= starts[1]:
            event.split = "test"
        if any(start - gap_s <= event.second < start for start in starts):
            event.split = "gap"


def split_leave_last_out(events):
    for query in {event.query for event in events}:
        own = sorted((e for e in events if e.query == query), key=lambda e: e.key)
        for event in own:
            event.split = "train"
        if len(own) >= 3:
            own[-2].split, own[-1].split = "validation", "test"


def split_temporal_user(events, validation="0.1", test="0.1"):
    for query in {event.query for event in events}:
        own = sorted((e for e in events if e.query == query), key=lambda e: e.key)
        num_test = int(len(own) * Fraction(test))
        num_validation = int(len(own) * Fraction(validation))
        for place, event in enumerate(reversed(own)):
            event.split = "train" if place >= num_test + num_validation else "validation"
            if place < num_test:
                event.split = "test"


def without_contradicted(events, kind, window_s):
    """Events but those of a kind that lie near a positive of the same query and candidate."""

    def is_contradicted(event):
        return any(
            other.label
            and (other.query, other.candidate) == (event.query, event.candidate)
            and abs(other.second - event.second) <= window_s
            for other in events
        )

    return [e for e in events if e.context.get("type") != kind or not is_contradicted(e)]


def first_of_duplicates(events):
    kept = {}
    for event in sorted(events, key=lambda e: e.key):
        kept.setdefault((event.query, event.candidate, event.label), event)
    return list(kept.values())


def core(pairs, min_per_query, min_per_candidate, *, repeat):
    """The (query, candidate) pairs in which both have their minimum."""
    while True:
        queries, candidates = (Counter(values) for values in zip(*pairs, strict=True))
        left = [
            (query, candidate)
            for query, candidate in pairs
            if queries[query] >= min_per_query and candidates[candidate] >= min_per_candidate
        ]
        if not repeat or len(left) == len(pairs):
            return left
        pairs = left


def history(event, events, length):
    """Ids of the last positives strictly before an event, oldest first."""
    before = [e for e in events if e.query == event.query and e.label and e.key < event.key]
    before.sort(key=lambda e: e.key)
    return [e.candidate for e in before][-length:]


def aggregate(own, moment, what, days):
    """What events of one query or candidate, rows of second, label and value, say of a moment.

    None where it is missing.
    """
    first = 0 if days is None else moment - days * 86_400
    before = [row for row in own if first <= row[0] < moment]
    if what == "mean":
        values = [value for _, _, value in before if value == value]
        return sum(values) / len(values) if values else None
    seconds = [second for second, label, _ in before if label == 1]
    if what == "count":
        return len(seconds)
    return (moment - max(seconds)) / 86_400 if seconds else None


def vocabulary(tokens, min_count=1):
    counts = Counter(token for token in tokens if token)
    kept = [token for token, count in counts.items() if count >= min_count]
    return sorted(kept, key=lambda token: (-counts[token], token.encode()))


def row_of(token, tokens):
    if token == "":
        return 0
    return tokens.index(token) + 2 if token in tokens else 1


def rows_of_ids(ids):
    return {value: row for row, value in enumerate(sorted(set(ids), key=str.encode))}


def files_of(folder, pattern):
    """The files that the manifest of an output folder names, those whose kind matches a pattern."""
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return [
        folder / file["path"]
        for name in sorted(files)
        if fnmatch(name, pattern)
        for file in files[name]
    ]


def read_records(folder, pattern):
    """All records of some files as mappings of name -> list of values."""
    records = []
    for path in files_of(folder, pattern):
        for data in tf.data.TFRecordDataset(str(path), compression_type="GZIP"):
            example = tf.train.Example.FromString(data.numpy())
            records.append(
                {
                    name: list(getattr(feature, feature.WhichOneof("kind")).value)
                    for name, feature in example.features.feature.items()
                }
            )
    return records


def read_bytes_of_records(folder, pattern):
    """The serialized records of some files, sorted."""
    records = []
    for path in files_of(folder, pattern):
        dataset = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
        records += [data.numpy() for data in dataset]
    return sorted(records)


def read_rows(folder, pattern):
    """All rows of some Parquet files."""
    rows = []
    for path in files_of(folder, pattern):
        rows += pq.read_table(path).to_pylist()
    return rows


def in_order(records):
    """Records in an order of their own, to compare two lists as multisets."""
    return sorted(records, key=lambda record: repr(sorted(record.items())))


def read_statistics(folder):
    [path] = files_of(folder, "statistics")
    return json.loads(path.read_text())


def read_vocabulary(folder, name):
    [path] = [path for path in files_of(folder, "vocabularies") if path.stem == name]
    return path.read_text().split()


def as_float32(value):
    return float(np.float32(value))

"""A prepared folder from plain Python values: the format once more, written by hand.

Training and evaluation are tested on folders that the Beam job has not touched, and the job's own
output can be compared with one of these.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import tensorflow as tf

from tfrs_twotower.schema import Config
from tfrs_twotower.schema.folders import write_json

Value = int | float | bytes | list[int] | list[float]
Encoded = Mapping[str, Value]
"""Encoded features by name: numbers are float, rows are int."""

# Where the files stand here, by what they hold.
PATTERNS = {
    **{f"examples/{split}": f"examples/{split}-*" for split in ("train", "validation", "test")},
    **{name: f"{name}-*.parquet" for name in ("candidate_attributes", "queries")},
    "candidates": "candidates-*.tfrecord.gz",
    "known_positives": "known_positives-*.parquet",
    "vocabularies": "vocabularies/*.txt",
    "statistics": "statistics.json",
}


class Example(NamedTuple):
    """One example: who, what, and the encoded query and context features."""

    query_id: str
    candidate_id: str
    features: Encoded
    timestamp_s: int = 0
    label: int = 1
    weight: float = 1.0


def write_prepared_folder(
    folder: Path,
    config: Config,
    *,
    vocabularies: Mapping[str, Sequence[str]],
    candidates: Mapping[str, Encoded],
    examples: Mapping[str, Sequence[Example]],
    numbers: Mapping[str, Mapping[str, object]] | None = None,
    shards: int = 2,
) -> Path:
    """Writes a finished prepared folder.

    Args:
        folder: Where; must not exist.
        config: The folder's schema is that of this config.
        vocabularies: Tokens by feature, most frequent first.
        candidates: The corpus: encoded candidate features by id, in any order.
        examples: By split.
        numbers: `NumberStatistics` fields by number feature.
        shards: How many record files the examples and candidates are dealt to.

    Returns:
        `folder`.
    """
    (folder / "vocabularies").mkdir(parents=True)
    (folder / "examples").mkdir()
    candidate_rows = _rows(candidates)
    everything = [example for split in examples.values() for example in split]
    query_rows = _rows({example.query_id for example in everything})
    train = [example for example in examples.get("train", []) if example.label == 1]

    for name, tokens in vocabularies.items():
        lines = "".join(f"{token}\n" for token in tokens)
        (folder / "vocabularies" / f"{name}.txt").write_text(lines, encoding="utf-8")
    for split in ("train", "validation", "test"):
        records = [
            {
                **example.features,
                "query_row": query_rows[example.query_id],
                "candidate_row": candidate_rows[example.candidate_id],
                "timestamp_s": example.timestamp_s,
                "label": example.label,
                "weight": float(example.weight),
            }
            for example in examples.get(split, [])
        ]
        _write_records(folder / "examples", split, records, shards)
    _write_records(
        folder,
        "candidates",
        [
            {**encoded, "candidate_row": candidate_rows[name], "candidate_id": name.encode()}
            for name, encoded in candidates.items()
        ],
        shards,
    )

    had = {
        query: sorted({candidate_rows[e.candidate_id] for e in train if e.query_id == query})
        for query in query_rows
    }
    known = pd.DataFrame(
        [(query, query_rows[query], rows) for query, rows in had.items() if rows],
        columns=["query_id", "query_row", "candidate_rows"],
    )
    known.to_parquet(folder / "known_positives-00000-of-00001.parquet", index=False)
    length = config.history.feature.length if config.history else 0
    queries = pd.DataFrame(
        {
            "query_id": list(query_rows),
            "history_train_end": [_history(train, query, length) for query in query_rows],
            "history_now": [_history(everything, query, length) for query in query_rows],
        }
    )
    # Rows do not follow the order of files.
    queries.iloc[::-1].to_parquet(folder / "queries-00000-of-00001.parquet", index=False)
    attributes = pd.DataFrame(
        {"candidate_id": list(candidate_rows), "candidate_row": list(candidate_rows.values())}
    )
    attributes.to_parquet(folder / "candidate_attributes-00000-of-00001.parquet", index=False)

    counts = {name: sum(e.candidate_id == name for e in train) for name in candidates}
    write_json(
        folder / "statistics.json",
        {"total": len(train), "candidate_train_counts": counts, "numbers": dict(numbers or {})},
    )
    write_json(
        folder / "manifest.json",
        {
            "kind": "prepared",
            "format": 2,
            "files": {
                name: [
                    {"path": str(path.relative_to(folder))} for path in sorted(folder.glob(files))
                ]
                for name, files in PATTERNS.items()
            },
            "code_version": "by hand",
            "schema_fingerprint": config.fingerprint(),
            "record_schema": config.record_schema(),
            "config": config.model_dump(mode="json"),
            "counts": {
                "examples": {
                    split: {
                        "positives": sum(e.label == 1 for e in examples.get(split, [])),
                        "negatives": sum(e.label == 0 for e in examples.get(split, [])),
                    }
                    for split in ("train", "validation", "test")
                }
            },
            "corpus_size": len(candidates),
            "num_queries": len(query_rows),
            "digests": {"examples": _digest([tuple(e) for e in everything])},
        },
    )
    return folder


def _rows(ids: Mapping[str, object] | set[str]) -> dict[str, int]:
    """Positions among the ids sorted by their UTF-8 bytes."""
    return {name: row for row, name in enumerate(sorted(ids, key=str.encode))}


def _history(examples: Sequence[Example], query_id: str, length: int) -> list[str]:
    """The query's last positives, oldest first; equal times by id."""
    had = sorted(
        (e.timestamp_s, e.candidate_id) for e in examples if e.query_id == query_id and e.label == 1
    )
    return [candidate_id for _, candidate_id in had][-length:] if length else []


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_records(folder: Path, name: str, records: Sequence[Encoded], shards: int) -> None:
    for shard in range(shards):
        path = folder / f"{name}-{shard:05d}-of-{shards:05d}.tfrecord.gz"
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for record in records[shard::shards]:
                writer.write(_serialized(record))


def _serialized(record: Encoded) -> bytes:
    features = {}
    for name, value in record.items():
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], bytes):
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif isinstance(values[0], float):
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

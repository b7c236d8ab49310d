"""A small prepared folder with a feature of every kind on the sides that may have it.

The values are drawn by a seed and mean nothing: for tests of what must be equal, not of learning.
"""

import random
from pathlib import Path

from tests.prepared_folder import Encoded, Example, Value, write_prepared_folder
from tfrs_twotower.schema import Config, parse_config

NUM_QUERIES, NUM_CANDIDATES = 12, 15
NUM_EXAMPLES = {"train": 170, "validation": 30, "test": 30}

CONFIG_TEXT = """\
columns: {query_id: user, candidate_id: item, timestamp: ts}
features:
  query:
    user: {kind: id, dropout: 0.2}
    plan: {kind: categorical, oov_buckets: 2, missing: indicator}
    interests: {kind: multi_categorical, max_length: 3}
    bio: {kind: text, buckets: 32, max_length: 4}
    age: {kind: number}
    member: {kind: boolean}
    taste: {kind: vector, dimension: 3}
    recent: {kind: history, length: 4}
  context:
    moment: {kind: timestamp, time_zone: Europe/Paris}
  candidate:
    item: {kind: id, dropout: 0.1}
    language: {kind: categorical}
    genres: {kind: multi_categorical, max_length: 3}
    title: {kind: text, buckets: 32, max_length: 4}
    price: {kind: number, normalize: log}
    fresh: {kind: boolean, missing: {fill: false}}
    content: {kind: vector, dimension: 3, missing: indicator}
    released: {kind: timestamp, parts: [weekday]}
towers:
  embedding_dim: 8
  query: {hidden_units: [16], dropout: 0.2}
  candidate: {hidden_units: [16], dropout: 0.1}
loss: {mined_negatives: 2, mine_every: 2, mine_from: 5}
training:
  {epochs: 4, batch_size: 32, learning_rate: 0.01, schedule: cosine, seed: 11, patience: 9}
"""

STATISTICS = {
    "num_values": 10,
    "mean": 2.0,
    "variance": 4.0,
    "log_mean": 1.0,
    "log_variance": 0.5,
    "quantiles": [float(tenth) for tenth in range(11)],
}


def config(**training: object) -> Config:
    """The config, with other settings of training where given."""
    overrides = [f"training.{name}={value}" for name, value in training.items()]
    return parse_config(CONFIG_TEXT, "every kind", overrides)


def write_prepared(folder: Path, config: Config, seed: int = 5) -> Path:
    """Writes the folder; another seed gives other data of the same shape."""
    draw = random.Random(seed)
    queries = [f"user-{number}" for number in range(NUM_QUERIES)]
    candidates = [f"item-{number}" for number in range(NUM_CANDIDATES)]

    def rows(length: int, num_rows: int) -> Value:
        filled = draw.randint(0, length)
        return [draw.randrange(1, num_rows) for _ in range(filled)] + [0] * (length - filled)

    def number() -> float:
        return draw.choice([float("nan"), draw.gauss(2.0, 2.0)])

    def vector() -> Value:
        return draw.choice([[float("nan")] * 3, [draw.gauss(0.0, 1.0) for _ in range(3)]])

    def boolean() -> float:
        return draw.choice([0.0, 1.0])

    profiles: dict[str, Encoded] = {
        query: {
            "user": 2 + row,
            "plan": draw.randrange(5),
            "interests": rows(3, 6),
            "bio": rows(4, 33),
            "age": number(),
            "member": draw.choice([boolean(), float("nan")]),
            "taste": vector(),
        }
        for row, query in enumerate(queries)
    }

    def event(timestamp_s: int) -> Example:
        query = draw.choice(queries)
        context = {
            "recent": rows(4, 2 + NUM_CANDIDATES),
            "moment": [draw.randrange(25), draw.randrange(8)],
        }
        return Example(
            query,
            draw.choice(candidates),
            {**profiles[query], **context},
            timestamp_s,
            label=draw.choice([1, 1, 1, 0]),
            weight=draw.choice([0.5, 1.0, 2.0]),
        )

    moments = iter(range(1_000_000, 2_000_000))
    return write_prepared_folder(
        folder,
        config,
        vocabularies={
            "user": queries,
            "plan": ["free", "paid"],
            "interests": ["art", "food", "music", "sport"],
            "item": candidates,
            "language": ["en", "fr"],
            "genres": ["drama", "comedy", "crime"],
        },
        candidates={
            name: {
                "item": 2 + row,
                "language": draw.randrange(4),
                "genres": rows(3, 5),
                "title": rows(4, 33),
                "price": number(),
                "fresh": boolean(),
                "content": vector(),
                "released": [draw.randrange(8)],
            }
            for row, name in enumerate(candidates)
        },
        examples={
            split: [event(next(moments)) for _ in range(size)]
            for split, size in NUM_EXAMPLES.items()
        },
        numbers={"age": STATISTICS, "price": STATISTICS},
    )

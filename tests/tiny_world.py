"""A planted world in which the right answer is known.

A checkerboard of 20 queries and 20 candidates: a query likes the ten candidates of its own parity.
Nine of them are its train events, one is withheld for the test. Once the nine are excluded, a model
that has understood the board ranks the withheld one before the ten candidates of the other parity.
Every candidate occurs nine times in train: popularity knows nothing.
"""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.schema import Config, parse_config

SIZE = 20

CONFIG_TEXT = """\
columns: {query_id: user_id, candidate_id: item_id, split: split}
split: {by: column}
features:
  query: {user_id: {kind: id}}
  candidate: {item_id: {kind: id}}
towers: {embedding_dim: 8}
loss: {temperature: 0.3}
training: {epochs: 20, batch_size: 60, learning_rate: 0.05, seed: 7}
"""


class Event(NamedTuple):
    """One row of the log."""

    query_id: str
    candidate_id: str
    split: str


def query_id(number: int) -> str:
    """Ids whose order as text is not the order of the numbers."""
    return f"user-{number}"


def candidate_id(number: int) -> str:
    """Neither the same order as the numbers nor as the queries: ids and rows must not be mixed."""
    return f"{(7 * number + 3) % SIZE}-item"


def withheld(number: int) -> int:
    """The candidate of the query's parity that train never shows with it."""
    return (number + 6) % SIZE


def events() -> list[Event]:
    """The log: 180 train events and 20 test events."""
    return [
        Event(
            query_id(query),
            candidate_id(candidate),
            "test" if candidate == withheld(query) else "train",
        )
        for query in range(SIZE)
        for candidate in range(query % 2, SIZE, 2)
    ]


def config(**training: object) -> Config:
    """Ids only, eight dimensions; other settings of training where given."""
    overrides = [f"training.{name}={value}" for name, value in training.items()]
    return parse_config(CONFIG_TEXT, "tiny world", overrides)


def write_dataset(folder: Path) -> Path:
    """Writes the dataset folder: `interactions.csv` and `twotower.yaml`."""
    folder.mkdir(parents=True)
    log = pd.DataFrame(events(), columns=["user_id", "item_id", "split"])
    log.to_csv(folder / "interactions.csv", index=False)
    (folder / "twotower.yaml").write_text(CONFIG_TEXT, encoding="utf-8")
    return folder


def write_prepared(folder: Path, config: Config, *, held_out: str = "test") -> Path:
    """Writes the prepared folder without the Beam job; the withheld events may also validate."""
    queries = sorted(query_id(number) for number in range(SIZE))
    candidates = sorted(candidate_id(number) for number in range(SIZE))
    # Row 0 is missing, row 1 unknown.
    examples: dict[str, list[Example]] = {"train": [], held_out: []}
    for event in events():
        encoded = {"user_id": 2 + queries.index(event.query_id)}
        split = "train" if event.split == "train" else held_out
        examples[split].append(Example(event.query_id, event.candidate_id, encoded))
    return write_prepared_folder(
        folder,
        config,
        vocabularies={"user_id": queries, "item_id": candidates},
        candidates={name: {"item_id": 2 + row} for row, name in enumerate(candidates)},
        examples=examples,
    )

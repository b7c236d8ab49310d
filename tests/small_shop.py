"""A small shop, all the way from a log to exported models: for tests of what comes after.

40 items of four kinds, 60 users who like one kind each, 90 days; the features of a user, a moment
and an item; titles, one of them hostile. The last tenth of the events tests.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tfrs_twotower import api

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 60, 40, 1800
KINDS = ("tea", "wine", "milk", "soup")
FIRST_DAY = 1_700_000_000
HOSTILE = "</script><script>document.title = 'taken'</script><b>&\"'"

CONFIG_TEXT = """\
columns: {query_id: user, candidate_id: item, timestamp: ts, title: title}
features:
  query:
    user: {kind: id}
    city: {kind: categorical}
    member: {kind: boolean}
    history: {kind: history, length: 6}
  context:
    clock: {kind: timestamp, column: ts}
  candidate:
    item: {kind: id}
    shelf: {kind: categorical}
towers: {embedding_dim: 8}
training: {epochs: 2, batch_size: 256, learning_rate: 0.02, seed: 3}
export: {attributes: [label]}
"""


class Shop(NamedTuple):
    """The folders of the shop."""

    dataset: Path
    prepared: Path
    run: Path
    models: Path


def item_id(number: int) -> str:
    return f"i{number:02d}"


def write_dataset(folder: Path) -> Path:
    """Writes the log, its items and users, and the config."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(4)
    users = generator.integers(0, NUM_USERS, NUM_EVENTS)
    own_kind = generator.integers(0, NUM_ITEMS // len(KINDS), NUM_EVENTS) * len(KINDS)
    items = np.where(
        generator.random(NUM_EVENTS) < 0.85,
        own_kind + users % len(KINDS),
        generator.integers(0, NUM_ITEMS, NUM_EVENTS),
    )
    log = pd.DataFrame(
        {
            "user": [f"u{user:02d}" for user in users],
            "item": [item_id(item) for item in items],
            "ts": FIRST_DAY + np.sort(generator.integers(0, 90 * 86_400, NUM_EVENTS)),
        }
    )
    log.to_csv(folder / "interactions.csv", index=False)
    titles = [f"Title {number}" for number in range(NUM_ITEMS)]
    titles[0] = HOSTILE
    candidates = pd.DataFrame(
        {
            "item": [item_id(number) for number in range(NUM_ITEMS)],
            "title": titles,
            "shelf": [KINDS[number % len(KINDS)] for number in range(NUM_ITEMS)],
            "label": [HOSTILE, *["green", "red", "blue"] * 13],
        }
    )
    candidates.to_parquet(folder / "candidates.parquet", index=False)
    profiles = pd.DataFrame(
        {
            "user": [f"u{user:02d}" for user in range(NUM_USERS)],
            "city": [("Rome", "Oslo", None)[user % 3] for user in range(NUM_USERS)],
            "member": [user % 2 == 0 for user in range(NUM_USERS)],
        }
    )
    profiles.to_parquet(folder / "queries.parquet", index=False)
    (folder / "twotower.yaml").write_text(CONFIG_TEXT, encoding="utf-8")
    return folder


def make(folder: Path) -> Shop:
    """Writes, prepares, trains and exports."""
    shop = Shop(*(folder / name for name in Shop._fields))
    config = write_dataset(shop.dataset) / "twotower.yaml"
    api.prepare(config, shop.dataset, shop.prepared)
    api.train(config, shop.prepared, shop.run, progress=False)
    api.export(shop.run, shop.prepared, shop.models)
    return shop

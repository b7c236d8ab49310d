"""The sample data set: a log drawn from a small world, some of it malformed, and the truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_twotower.datasets.files import copy_config, write_table
from tfrs_twotower.datasets.sample_titles import invent_titles
from tfrs_twotower.datasets.sample_world import (
    AGE_BANDS,
    END_S,
    NUM_CANDIDATES,
    NUM_QUERIES,
    Log,
    Strings,
    World,
    at_moment,
    draw_log,
    make_world,
    oracle,
    with_drift,
)
from tfrs_twotower.schema.split import Split

ORACLE_LENGTH = 200
MALFORMED_SHARE = 0.005
HEADER = "user_id,item_id,timestamp,event,thumbs"

# What may be wrong with a row, as a change to its fields.
SPOILERS: tuple[Callable[[list[str]], list[str]], ...] = (
    lambda row: ["", *row[1:]],  # no user
    lambda row: [row[0], "", *row[2:]],  # no item
    lambda row: [row[0], f"gone-{row[1]}", *row[2:]],  # an item the catalogue does not list
    lambda row: [*row[:2], "", *row[3:]],  # no time
    lambda row: [*row[:2], "yesterday", *row[3:]],
    lambda row: [*row[:2], f"{row[2]}000", *row[3:]],  # milliseconds
    lambda row: [*row[:3], "hover", row[4]],  # an event without a rule
    lambda row: [*row[:4], "7"],  # a thumb without a rule
    lambda row: row[:2],  # a line cut off
    lambda row: [*row, *row],  # two lines run into one
)


def write(folder: Path, seed: int, *, drift: bool = False) -> dict[str, int]:
    """Writes the files of the sample into a folder.

    Args:
        folder: An empty folder.
        seed: Decides everything.
        drift: Whether tastes move and items age.

    Returns:
        Rows by kind.
    """
    rng = np.random.default_rng(seed)
    world = make_world(rng)
    if drift:
        world = with_drift(world, rng)
    log = draw_log(world, rng)
    users, items = _names("u", NUM_QUERIES), _names("i", NUM_CANDIDATES)

    lines = _lines(log, users, items)
    spoiled = np.sort(rng.choice(len(lines), int(MALFORMED_SHARE * len(lines)), replace=False))
    malformed = [
        ",".join(SPOILERS[number % len(SPOILERS)](lines[line].split(",")))
        for number, line in enumerate(spoiled)
    ]
    rows = np.insert(lines.astype(object), spoiled, malformed)
    text = "\n".join([HEADER, *rows]) + "\n"
    (folder / "interactions.csv").write_text(text, encoding="utf-8")
    write_table(folder / "candidates.parquet", _candidates(world, items, rng))
    write_table(folder / "queries.parquet", _queries(world, users))
    write_table(folder / "oracle.parquet", _oracle(world, log, users, items))
    copy_config(folder, "sample")
    return {
        "interactions": len(lines),
        "malformed": len(malformed),
        "candidates": len(items),
        "queries": len(users),
    }


def _names(prefix: str, count: int) -> Strings:
    """Ids such as u0042; their order is the order of the rows."""
    return np.array([f"{prefix}{number:04d}" for number in range(count)])


def _lines(log: Log, users: Strings, items: Strings) -> Strings:
    thumbs = np.where(log.thumbs == 0, "", log.thumbs.astype(str))
    columns = (users[log.query_rows], items[log.candidate_rows], log.timestamps_s, log.events)
    rows = zip(*(column.tolist() for column in columns), thumbs.tolist(), strict=True)
    return np.array([",".join(map(str, row)) for row in rows])


def _candidates(world: World, items: Strings, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "item_id": items,
        "title": invent_titles([genres[0] for genres in world.genres], rng),
        "genres": ["|".join(genres) for genres in world.genres],
        "language": world.languages,
        "price": world.prices,
        "content": list(world.vectors),
        "available_from": world.available_from_s,
    }


def _queries(world: World, users: Strings) -> dict[str, Any]:
    age_bands = np.array(AGE_BANDS)[world.age_bands]
    return {"user_id": users, "age_band": age_bands, "country": world.countries}


def _oracle(world: World, log: Log, users: Strings, items: Strings) -> dict[str, Any]:
    """The truth about the test part of the default split; of what drifts, at its middle."""
    start_s = int(log.timestamps_s[int((1.0 - Split().test) * len(log))])
    now = at_moment(world, (start_s + END_S) / 2)
    rankings = oracle(now, log, start_s, ORACLE_LENGTH)
    return {"query_id": users, "candidate_ids": list(items[rankings])}

"""New candidates for a model of 1,000,000, without training: time and memory of `twotower refresh`.

A generated catalogue (`--quick`: 30,000 items): a category, a brand, a price and words of a title.
Queries like items of a category. One epoch trains the towers, `twotower export` publishes the first
version with a target recall. Then a hundredth of the items is removed, a hundredth is new and a
hundredth has another price, and `twotower refresh` publishes the second version.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _harness import ROOT, Measurement, benchmark

SIZE, QUICK_SIZE = 1_000_000, 30_000
NUM_EVENTS, EVENTS_A_QUERY = 60_000, 20
NUM_CATEGORIES, NUM_BRANDS, NUM_WORDS = 400, 5_000, 3_000
SHARE = 100  # One item of so many is removed, as many are new, as many cost something else.
TWOTOWER = "tfrs_twotower.cli"
CONFIG = """
columns: {query_id: user_id, candidate_id: item_id, timestamp: timestamp}
features:
  query:
    history: {kind: history, length: 10}
  candidate:
    item_id: {kind: id}
    category: {kind: categorical}
    brand: {kind: categorical}
    price: {kind: number}
    title: {kind: text}
towers: {embedding_dim: 64}
training: {epochs: 1, batch_size: 1024}
index: {target_recall: 0.95, at: 100}
"""


def catalogue(first: int, last: int) -> pa.Table:
    """Items of these numbers; those that two catalogues share are alike."""

    def draws(column: int) -> np.random.Generator:
        return np.random.default_rng([0, column])

    words = [text("w", draws(column).integers(0, NUM_WORDS, last)) for column in (3, 4, 5)]
    table = {
        "item_id": text("i", np.arange(last)),
        "category": text("c", draws(0).integers(0, NUM_CATEGORIES, last)),
        "brand": text("b", draws(1).integers(0, NUM_BRANDS, last)),
        "price": np.round(draws(2).lognormal(3.0, 1.0, last), 2),
        "title": [" ".join(three) for three in zip(*words, strict=True)],
    }
    return pa.table(table).slice(first)


def text(prefix: str, numbers: Any) -> Any:
    return np.char.add(prefix, numbers.astype(str))


def events(items: pa.Table) -> pa.Table:
    """A log in which each query keeps to a category."""
    draw = np.random.default_rng(1)
    category = items["category"].combine_chunks().dictionary_encode()
    rows = np.argsort(category.indices.to_numpy(), kind="stable")
    starts = np.searchsorted(category.indices.to_numpy()[rows], np.arange(len(category.dictionary)))
    sizes = np.diff(np.append(starts, len(rows)))
    query = np.repeat(np.arange(NUM_EVENTS // EVENTS_A_QUERY), EVENTS_A_QUERY)
    liked = draw.integers(0, len(starts), query.max() + 1)[query]
    chosen = rows[starts[liked] + (draw.random(NUM_EVENTS) ** 2 * sizes[liked]).astype(int)]
    return pa.table(
        {
            "user_id": text("u", query),
            "item_id": items["item_id"].take(chosen),
            "timestamp": 1_600_000_000 + draw.integers(0, 90 * 86400, NUM_EVENTS),
        }
    )


def run(module: str, *arguments: str | Path) -> tuple[float, float]:
    """Runs a command; returns its seconds and the peak memory of its process in MB."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            sys.exit(output.read().decode(errors="replace"))
    return time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e6


@benchmark(code=["tfrs_twotower/publishing", "tfrs_twotower/index"])
def main(quick: bool) -> list[Measurement]:
    size = QUICK_SIZE if quick else SIZE
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset, config, models = root / "dataset", root / "twotower.yaml", root / "models"
        dataset.mkdir()
        config.write_text(CONFIG, encoding="utf-8")
        items = catalogue(0, size)
        pq.write_table(items, dataset / "candidates.parquet")
        pq.write_table(events(items), dataset / "interactions.parquet")
        prepared, trained = root / "prepared", root / "run"
        of_config, of_data = ["--config", config], ["--data", prepared]
        run("pipelines.prepare", *of_config, "--dataset", dataset, "--output", prepared)
        run(TWOTOWER, "train", *of_config, *of_data, "--output", trained)
        exported = run(TWOTOWER, "export", "--run", trained, *of_data, "--output", models)
        changed = catalogue(size // SHARE, size + size // SHARE)
        dearer = pa.array(np.arange(len(changed)) % SHARE == 0)
        price = np.where(dearer, changed["price"].to_numpy() + 1, changed["price"].to_numpy())
        changed = changed.set_column(changed.column_names.index("price"), "price", pa.array(price))
        pq.write_table(changed, root / "candidates.parquet")
        refreshed = run(
            TWOTOWER, "refresh", "--models", models, "--candidates", root / "candidates.parquet"
        )
    found = []
    for name, (seconds, megabytes) in {"export": exported, "refresh": refreshed}.items():
        found.append(Measurement(f"{size:,} candidates, {name}", seconds, "s"))
        found.append(Measurement(f"{size:,} candidates, {name}, peak memory", megabytes, "MB"))
    return found


if __name__ == "__main__":
    main()

"""Features of a history's candidates, from the log to a served answer and a refresh.

The planted log has 240 items on eight shelves, of which train shows each twice or so, and 40 more
that only the test queries begin with. A user takes an item of a shelf and then one of the next
shelf: what the first one is says nothing, its shelf everything.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cc_loader import predict
from tfrs_twotower import api
from tfrs_twotower.features.history_candidates import HistoryCandidates
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import Run, build_model, load_run
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import parse_config
from tfrs_twotower.training.plan import plan
from tfrs_twotower.training.warm_start import carry_over, earlier_run

# The fixture is a whole chain, from the log to a models folder.
pytestmark = pytest.mark.slow

NUM_SHELVES, NUM_KNOWN, NUM_NEW, NUM_USERS = 8, 240, 40, 300
PER_SHELF = NUM_KNOWN // NUM_SHELVES
CONFIG = """\
columns: {query_id: user, candidate_id: item, timestamp: at, split: part}
split: {by: column}
features:
  query:
    recent: {kind: history, length: 3, candidate_features: [shelf, price]}
  candidate:
    item: {kind: id}
    shelf: {kind: categorical}
    price: {kind: number}
towers: {embedding_dim: 16}
training: {epochs: 12, batch_size: 50, learning_rate: 0.02, seed: 2}
export: {retrieval: false}
"""


def item(number: int) -> str:
    return f"i{number}"


def shelf(number: int) -> int:
    return number % NUM_SHELVES


def log() -> pd.DataFrame:
    draw = np.random.default_rng(7)
    rows = []
    for user in range(NUM_USERS):
        part = "test" if user % 5 == 0 else "train"
        first = int(draw.integers(0, NUM_KNOWN))
        if part == "test":
            first = NUM_KNOWN + int(draw.integers(0, NUM_NEW))
        second = int(draw.integers(0, PER_SHELF)) * NUM_SHELVES + (shelf(first) + 1) % NUM_SHELVES
        rows += [(f"u{user}", item(first), 100 * user, part)]
        rows += [(f"u{user}", item(second), 100 * user + 1, part)]
    return pd.DataFrame(rows, columns=["user", "item", "at", "part"])


def candidates() -> pd.DataFrame:
    numbers = range(NUM_KNOWN + NUM_NEW)
    return pd.DataFrame(
        {
            "item": [item(number) for number in numbers],
            "shelf": [f"shelf {shelf(number)}" for number in numbers],
            "price": [float(number % 7) if number % 3 else None for number in numbers],
        }
    )


class World:
    """The folders of one chain, made once."""

    def __init__(self, root: Path) -> None:
        self.prepared, self.folder, self.models = (root / n for n in ("prepared", "run", "models"))
        self.run = trained(CONFIG, self.prepared, self.folder)
        api.export(self.folder, self.prepared, self.models, progress=False)


def trained(text: str, prepared: Path, run: Path) -> Run:
    config = parse_config(text, "planted")
    api.prepare(
        config, interactions=log(), candidates=candidates(), output=prepared, progress=False
    )
    api.train(config, prepared, run, progress=False)
    return load_run(run, prepared)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def histories(run: Run) -> tuple[np.ndarray, list[list[str]], np.ndarray]:
    """Of the test examples that have one: encoded, as ids, and the number of the first item."""
    encoded = run.data.examples("test")["recent"]
    encoded = encoded[encoded[:, 0] > 0]
    corpus = run.data.corpus()
    ids = dict(zip(corpus.history_rows.tolist(), corpus.candidate_ids.tolist(), strict=True))
    named = [[ids[row] for row in rows if row] for rows in encoded.tolist()]
    return encoded, named, np.array([int(names[0].removeprefix("i")) for names in named])


def share_on_the_next_shelf(run: Run, encoded: np.ndarray, first: np.ndarray) -> float:
    """Of the ten best of each test query."""
    corpus = run.data.corpus()
    queries = embed(run.model.query_tower, {"recent": encoded})
    scores = queries @ embed(run.model.candidate_tower, corpus.features).T
    best = corpus.candidate_ids[np.argsort(-scores, axis=1, kind="stable")[:, :10]]
    shelves = np.char.lstrip(best, "i").astype(int) % NUM_SHELVES
    return float((shelves == (first[:, np.newaxis] + 1) % NUM_SHELVES).mean())


def test_the_shelf_of_a_new_item_tells_what_comes_next(world, tmp_path):
    without = CONFIG.replace(", candidate_features: [shelf, price]", "")
    encoded, _, first = histories(world.run)
    blind = trained(without, tmp_path / "prepared", tmp_path / "run")
    same = blind.data.examples("test")["recent"]
    same = same[same[:, 0] > 0]

    assert len(encoded) == len(same) == NUM_USERS // 5
    assert share_on_the_next_shelf(world.run, encoded, first) > 0.7  # Chance is 0.125.
    # To ids alone every new item is the same one.
    assert len(np.unique(same, axis=0)) == 1
    assert share_on_the_next_shelf(blind, same, first) < 0.3


def embedded(models: Path, version: int, named: list[list[str]]) -> np.ndarray:
    """By TensorFlow's own loader, which is TF Serving's."""
    width = max(map(len, named))
    padded = [[*names, *[""] * (width - len(names))] for names in named]
    folder = models / "query_tower" / str(version)
    return predict(folder, "serving_default", {"recent": padded})["query_embedding"]


def test_ids_alone_are_answered_as_in_training(world):
    encoded, named, _ = histories(world.run)

    served = embedded(world.models, 1, named)

    expected = embed(world.run.model.query_tower, {"recent": encoded})
    np.testing.assert_allclose(served, expected, atol=1e-6)


def test_a_history_lists_the_corpus_and_ids_what_train_has(world):
    features = world.run.data.history_candidates()
    corpus = world.run.data.corpus()

    for name in ("shelf", "price"):
        in_rows = features[name][corpus.history_rows]
        np.testing.assert_array_equal(in_rows, corpus.features[name])
    assert len(set(corpus.history_rows)) == len(corpus) == NUM_KNOWN + NUM_NEW
    is_new = np.char.lstrip(corpus.candidate_ids, "i").astype(int) >= NUM_KNOWN
    assert set(corpus.features["item"][is_new]) == {1}


def test_a_refresh_tells_histories_of_new_items_and_of_changes(world, tmp_path):
    models = Path(shutil.copytree(world.models, tmp_path / "models"))
    # Item 0 is gone, item 1 moves to the shelf of item 250, and there is a twin of item 251.
    table = candidates()
    table.loc[1, ["shelf", "price"]] = table.loc[250, ["shelf", "price"]]
    twin = table.iloc[[251]].assign(item="twin")
    table = pd.concat([table.iloc[1:], twin])
    table.to_parquet(tmp_path / "candidates.parquet", index=False)
    asked = [["i0"], ["i1"], ["i2"], ["twin"], ["i251"], ["nobody"]]

    made = api.refresh(models, [tmp_path / "candidates.parquet"])

    before, after = (embedded(models, version, asked) for version in (1, made.version))
    np.testing.assert_allclose(before[[0, 2, 4, 5]], after[[0, 2, 4, 5]], atol=1e-6)
    np.testing.assert_allclose(before[3], before[5], atol=1e-6)
    np.testing.assert_allclose(after[3], after[4], atol=1e-6)
    assert np.abs(after[1] - before[1]).max() > 1e-2
    # The retriever has the same tower.
    known = embed(world.run.model.candidate_tower, world.run.data.corpus().features)
    rules = {"exclude_ids": [[""]], "allow_ids": [[""]], "mmr_lambda": [1.0], "min_score": [-2.0]}
    answer = predict(
        models / "retrieval_exact" / str(made.version),
        "recommend",
        {"recent": [["twin"]], "k": [1], **rules},
    )
    assert answer["scores"][0, 0] == pytest.approx(float((known @ after[3]).max()), abs=1e-5)


def test_a_warm_start_carries_the_weights_over_and_takes_the_candidates_as_they_are(world):
    """From the run itself: the same weights, beside candidates that have changed since."""
    model = build_model(world.run.data)
    changed = candidate_layer(model)
    ones = np.ones(changed.encoded["price"].numpy().shape, np.float32)
    changed.encoded["price"].assign(ones)

    carry_over(earlier_run(world.folder, world.run.config), model, world.run.data)

    np.testing.assert_array_equal(changed.encoded["price"], ones)
    kept = candidate_layer(world.run.model).trainable_variables
    for ours, theirs in zip(changed.trainable_variables, kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_dry_run_counts_weights_and_no_features_of_candidates(world):
    planned = plan(world.run.config, world.prepared)

    num_ids = len((world.run.data.vocabulary_dir / "item.txt").read_text().split())
    ids, shelves = (2 + num_ids) * 16, (2 + NUM_SHELVES) * 8
    to_width = (8 + 2) * 16  # A price is a number and whether it is missing.
    candidate_tower = (16 + 8 + 2) * 16
    assert planned.num_parameters == ids + shelves + to_width + candidate_tower


def candidate_layer(model: TwoTowerModel) -> HistoryCandidates:
    [layer] = [one for one in model.submodules if isinstance(one, HistoryCandidates)]
    return layer

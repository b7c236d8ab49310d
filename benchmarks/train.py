"""Training end to end, from TFRecords: this project beside TFRS' basic retrieval tutorial.

MovieLens 1M, every rating a positive, a random tenth for validation; towers of ids, 32 dimensions,
the same epochs. The tutorial's own code looks strings up in the model; it is spared the top-k
metrics of each training step. Ours corrects by log q and masks accidental hits. Recall@100: is the
movie of a validation row among the 100 best of all? Then the time of a step with a large
vocabulary beside that with a small one.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from _harness import Measurement, alternate, benchmark, milliseconds

from tfrs_twotower import api
from tfrs_twotower.data.batches import steps_per_epoch, training_batches
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import Config, parse_config
from tfrs_twotower.training.optimizers import RowSparseAdam, make_optimizer

EMBEDDING_DIM = 32
BATCH_SIZES = (1024, 4096)
EPOCHS, QUICK_EPOCHS = 3, 2  # Three are the tutorial's own.
QUICK_RATINGS = 200_000
VALIDATION_SHARE = 0.1
K = 100
STEP_BATCH = 4096
SMALL, LARGE = (6_000, 4_000), (1_000_000, 200_000)  # users, items

CONFIG = f"""
columns: {{query_id: user_id, candidate_id: movie_id, split: split}}
features:
  query: {{user_id: {{kind: id}}}}
  candidate: {{movie_id: {{kind: id}}}}
split: {{by: column}}
towers: {{embedding_dim: {EMBEDDING_DIM}}}
loss: {{temperature: 0.15, mask: accidental_hits}}
"""


class Trained(NamedTuple):
    """The result of a training run."""

    seconds: float
    recall: float


class World(NamedTuple):
    """The ratings, as both sides read them."""

    prepared: Path
    strings: Path  # TFRecords of user and movie ids
    movie_ids: list[str]
    user_ids: list[str]
    num_train: int
    validation: pd.DataFrame


@benchmark(
    code=[
        "tfrs_twotower/losses",
        "tfrs_twotower/data",
        "tfrs_twotower/models",
        "tfrs_twotower/training",
    ],
    data="ml-1m",
)
def main(quick: bool, data: Path) -> list[Measurement]:
    epochs = QUICK_EPOCHS if quick else EPOCHS
    found = []
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(read_ratings(data, quick), Path(folder))
        for batch_size in BATCH_SIZES:
            tutorial = train_tutorial(world, batch_size, epochs)
            ours = train_ours(world, batch_size, epochs)
            label, examples = f"batch {batch_size}: ", world.num_train * epochs
            theirs_per_s, ours_per_s = (examples / one.seconds for one in (tutorial, ours))
            unit = "examples/s"
            recall = f"recall@{K} after {epochs} epochs"
            found += [
                Measurement(f"{label}TFRS tutorial", theirs_per_s, unit),
                Measurement(
                    f"{label}ours", ours_per_s, unit, f"{label}TFRS tutorial", theirs_per_s
                ),
                Measurement(f"{label}TFRS tutorial", tutorial.recall, recall),
                Measurement(
                    f"{label}ours", ours.recall, recall, f"{label}TFRS tutorial", tutorial.recall
                ),
            ]
    return found + vocabulary_steps(5 if quick else 31)


def read_ratings(folder: Path, quick: bool) -> pd.DataFrame:
    ratings = pd.read_csv(
        folder / "ratings.dat.gz",
        sep="::",
        engine="python",
        names=["user_id", "movie_id", "rating", "timestamp"],
        dtype={"user_id": str, "movie_id": str},
        nrows=QUICK_RATINGS if quick else None,
    )
    is_validation = np.random.default_rng(0).uniform(size=len(ratings)) < VALIDATION_SHARE
    ratings["split"] = np.where(is_validation, "validation", "train")
    return ratings


def make_world(ratings: pd.DataFrame, folder: Path) -> World:
    (folder / "dataset").mkdir()
    ratings[["user_id", "movie_id", "split"]].to_parquet(
        folder / "dataset" / "interactions.parquet"
    )
    api.prepare(parse_config(CONFIG, "benchmark"), folder / "dataset", folder / "prepared")
    train = ratings[ratings["split"] == "train"]
    strings = folder / "strings.tfrecord.gz"
    with tf.io.TFRecordWriter(str(strings), "GZIP") as writer:
        for user_id, movie_id in zip(train["user_id"], train["movie_id"], strict=True):
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
                for name, value in (("user_id", user_id), ("movie_id", movie_id))
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return World(
        folder / "prepared",
        strings,
        sorted(ratings["movie_id"].unique()),
        sorted(ratings["user_id"].unique()),
        len(train),
        ratings[ratings["split"] == "validation"],
    )


def recall(
    world: World,
    embed_users: Callable[[list[str]], np.ndarray],
    embed_movies: Callable[[list[str]], np.ndarray],
) -> float:
    """The share of validation rows whose movie is among the K best of all for the user."""
    users, movies = embed_users(world.user_ids), embed_movies(world.movie_ids)
    top = tf.math.top_k(tf.matmul(users, movies, transpose_b=True), K).indices.numpy()
    user_rows = pd.Index(world.user_ids).get_indexer(world.validation["user_id"])
    movie_rows = pd.Index(world.movie_ids).get_indexer(world.validation["movie_id"])
    return float((top[user_rows] == movie_rows[:, np.newaxis]).any(axis=1).mean())


class TutorialModel(tfrs.Model):
    """The model of the tutorial, with its own layers."""

    def __init__(self, user_ids: list[str], movie_ids: list[str]) -> None:
        """Looks ids up in the model, as the tutorial does."""
        super().__init__()
        self.user_model, self.movie_model = (
            keras.Sequential(
                [
                    keras.layers.StringLookup(vocabulary=ids, mask_token=None),
                    keras.layers.Embedding(len(ids) + 1, EMBEDDING_DIM),
                ]
            )
            for ids in (user_ids, movie_ids)
        )
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The loss of a batch of strings."""
        return self.task(
            self.user_model(features["user_id"]),
            self.movie_model(features["movie_id"]),
            compute_metrics=not training,
        )


def train_tutorial(world: World, batch_size: int, epochs: int) -> Trained:
    keras.utils.set_random_seed(0)
    model = TutorialModel(world.user_ids, world.movie_ids)
    model.compile(optimizer=keras.optimizers.Adagrad(learning_rate=0.1))
    columns = {name: tf.io.FixedLenFeature([], tf.string) for name in ("user_id", "movie_id")}
    start = time.perf_counter()
    batches = (
        tf.data.TFRecordDataset(str(world.strings), compression_type="GZIP")
        .map(lambda serialized: tf.io.parse_single_example(serialized, columns))
        .shuffle(100_000)
        .batch(batch_size)
        .cache()
    )
    model.fit(batches, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - start
    return Trained(
        seconds,
        recall(
            world,
            lambda ids: model.user_model(tf.constant(ids)).numpy(),
            lambda ids: model.movie_model(tf.constant(ids)).numpy(),
        ),
    )


def train_ours(world: World, batch_size: int, epochs: int) -> Trained:
    settings = [f"training.batch_size={batch_size}", f"training.epochs={epochs}"]
    config = parse_config(CONFIG, "benchmark", [*settings, "training.learning_rate=0.01"])
    data = PreparedData(world.prepared, config)
    model = build_model(data)
    num_steps = steps_per_epoch(world.num_train, batch_size)
    model.compile(optimizer=make_optimizer(config.training, num_steps))
    start = time.perf_counter()
    batches = training_batches(data.examples("train"), data.corpus(), config, range(epochs))
    model.fit(batches, epochs=epochs, steps_per_epoch=num_steps, verbose=0)
    seconds = time.perf_counter() - start

    def embedded(tower: keras.Model, encoder: tf.Module, name: str, ids: list[str]) -> np.ndarray:
        encoded = encoder({name: tf.constant(ids)})
        return embed(tower, {key: values.numpy() for key, values in encoded.items()})

    return Trained(
        seconds,
        recall(
            world,
            lambda ids: embedded(model.query_tower, data.query_encoder(), "user_id", ids),
            lambda ids: embedded(model.candidate_tower, data.candidate_encoder(), "movie_id", ids),
        ),
    )


def vocabulary_steps(rounds: int) -> list[Measurement]:
    """The time of one training step by the size of the vocabularies."""
    config = parse_config(CONFIG, "benchmark")
    small = f"a step, {SMALL[0]:,} users and {SMALL[1]:,} items"
    large = f"a step, {LARGE[0]:,} users and {LARGE[1]:,} items"
    seconds = alternate(
        {
            small: _step(config, *SMALL, RowSparseAdam()),
            large: _step(config, *LARGE, RowSparseAdam()),
            f"{large}, Keras' Adam": _step(config, *LARGE, keras.optimizers.Adam()),
        },
        rounds,
    )
    return [
        milliseconds(seconds, small),
        milliseconds(seconds, large, small),
        milliseconds(seconds, large, f"{large}, Keras' Adam"),
    ]


def _step(
    config: Config, num_users: int, num_items: int, optimizer: keras.optimizers.Optimizer
) -> Callable[[], object]:
    model = TwoTowerModel.from_config(config, {"user_id": num_users, "movie_id": num_items}, {})
    model.compile(optimizer=optimizer)
    rng = np.random.default_rng(0)
    rows = rng.integers(2, num_items, STEP_BATCH)
    batch = {
        "query": {"user_id": tf.constant(rng.integers(2, num_users, STEP_BATCH), tf.int32)},
        "candidate": {"movie_id": tf.constant(rows, tf.int32)},
        "candidate_row": tf.constant(rows, tf.int32),
        "candidate_log_q": tf.fill([STEP_BATCH], -float(np.log(num_items))),
        "weight": tf.ones([STEP_BATCH]),
    }
    step = tf.function(model.train_step)
    return lambda: float(step(batch)["loss"])


if __name__ == "__main__":
    main()

"""Top-100 accuracy on MovieLens 100K by the protocol of TFRS' basic retrieval tutorial.

Random 80/20 split of the ratings, every test row a query, candidates are the 1,664 titles, items
of the train part are not removed. Side by side, for each seed on the same split: the tutorial's
own model as it stands there, this project's with the same embedding width and number of epochs,
from ids only and from all that the data says of users, films and the moment, and the most popular
titles of the train part.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets.movielens import MovieLens, read_100k
from tfrs_twotower.evaluation.aggregate import evaluate_model
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import parse_config

SEEDS = range(5)
EPOCHS = 3
EMBEDDING_DIM = 32
TRAIN_SHARE = 0.8
TUTORIAL, POPULAR = "TFRS tutorial", "most popular"
IDS = """
features:
  query:
    user_id: {kind: id}
  candidate:
    movie_title: {kind: id}
"""
ALL_FEATURES = """
features:
  query:
    user_id: {kind: id}
    gender: {kind: categorical}
    age: {kind: number}
    occupation: {kind: categorical}
  context:
    moment: {kind: number, column: timestamp}
    clock: {kind: timestamp, column: timestamp}
  candidate:
    movie_title: {kind: id}
    genres: {kind: multi_categorical, separator: "|"}
    year: {kind: number}
"""
OURS = {"two towers, ids only": IDS, "two towers, all features": ALL_FEATURES}
CONFIG = f"""
columns: {{query_id: user_id, candidate_id: movie_title, timestamp: timestamp, split: split}}
split: {{by: column, hold_out: 0.0}}
towers: {{embedding_dim: {EMBEDDING_DIM}}}
loss: {{temperature: 0.2}}
training: {{epochs: {EPOCHS}, batch_size: 512, learning_rate: 0.003}}
"""


def read_tables(folder: Path) -> MovieLens:
    """The data, films told apart by their titles alone."""
    ratings, movies, users = read_100k(folder)
    movies = movies.rename(columns={"title": "movie_title"})
    ratings = ratings.merge(movies[["item_id", "movie_title"]], on="item_id")
    return MovieLens(ratings, movies.drop_duplicates("movie_title"), users)


class TutorialModel(tfrs.Model):
    """The model of the tutorial: two string look-ups with an embedding each, TFRS' own task."""

    def __init__(self, user_ids: list[str], titles: list[str]) -> None:
        """Makes the towers and the task."""
        super().__init__()
        self.user_model = _embedded(user_ids)
        self.movie_model = _embedded(titles)
        candidates = tf.data.Dataset.from_tensor_slices(titles).batch(128).map(self.movie_model)
        self.task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(candidates))

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The task of the tutorial, its metrics in evaluation only."""
        return self.task(
            self.user_model(features["user_id"]),
            self.movie_model(features["movie_title"]),
            compute_metrics=not training,
        )


def _embedded(vocabulary: list[str]) -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.StringLookup(vocabulary=vocabulary, mask_token=None),
            keras.layers.Embedding(len(vocabulary) + 1, EMBEDDING_DIM),
        ]
    )


def tutorial_accuracy(
    train: pd.DataFrame, test: pd.DataFrame, titles: list[str], seed: int
) -> float:
    """Trains and evaluates as the tutorial does."""
    keras.utils.set_random_seed(seed)
    model = TutorialModel(sorted(train["user_id"].unique()), titles)
    model.compile(optimizer=keras.optimizers.Adagrad(learning_rate=0.1))
    columns = ["user_id", "movie_title"]
    batches = tf.data.Dataset.from_tensor_slices(dict(train[columns]))
    model.fit(batches.shuffle(100_000, seed=seed).batch(8192).cache(), epochs=EPOCHS, verbose=0)
    test_batches = tf.data.Dataset.from_tensor_slices(dict(test[columns])).batch(4096)
    found = model.evaluate(test_batches, return_dict=True, verbose=0)
    return float(found["factorized_top_k/top_100_categorical_accuracy"])


def our_accuracies(tables: MovieLens, features: str, seed: int) -> dict[str, float]:
    """The whole chain of this project, from files; the popularity baseline comes with it."""
    config = parse_config(CONFIG + features, "config", [f"training.seed={seed}"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "dataset").mkdir()
        for name, table in zip(("interactions", "candidates", "queries"), tables, strict=True):
            table.to_parquet(root / "dataset" / f"{name}.parquet", index=False)
        api.prepare(config, root / "dataset", root / "prepared")
        api.train(config, root / "prepared", root / "run", progress=False)
        run = load_run(root / "run", root / "prepared")
        evaluation_set = load_evaluation_set(run.data, "test", unit="event", exclude_known=False)
        found = evaluate_model(EvaluationInputs.read(run.model, run.data, evaluation_set))
    return {name: found.systems[name]["all"]["recall_at_100"] for name in ("model", "popularity")}


@benchmark(
    code=[*TRAINED, "pipelines/prepare"],
    data="ml-100k",
)
def main(quick: bool, data: Path) -> list[Measurement]:
    tables = read_tables(data)
    ratings, titles = tables.ratings, sorted(tables.movies["movie_title"])
    found: dict[str, list[float]] = {TUTORIAL: [], **{name: [] for name in OURS}, POPULAR: []}
    for seed in SEEDS[:1] if quick else SEEDS:
        order = np.random.default_rng(seed).permutation(len(ratings))
        is_train = order < TRAIN_SHARE * len(ratings)
        ratings["split"] = np.where(is_train, "train", "test")
        found[TUTORIAL].append(
            tutorial_accuracy(ratings[is_train], ratings[~is_train], titles, seed)
        )
        for name, features in OURS.items():
            accuracies = our_accuracies(tables, features, seed)
            found[name].append(accuracies["model"])
        found[POPULAR].append(accuracies["popularity"])
    means = {name: float(np.mean(values)) for name, values in found.items()}
    unit = f"top-100 accuracy, mean of {len(found[POPULAR])} seeds"
    return [
        Measurement(name, means[name], unit, versus, means[versus])
        for name in (TUTORIAL, *OURS)
        for versus in (TUTORIAL, POPULAR)
        if name != versus
    ] + [Measurement(POPULAR, means[POPULAR], unit)]


if __name__ == "__main__":
    main()

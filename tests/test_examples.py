"""The example configs say what they claim, and train."""

import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.prepare import prepare
from serving.loading import load
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.features.dense import DenseFeatures
from tfrs_twotower.keras import tf
from tfrs_twotower.models.towers import embedding_tables
from tfrs_twotower.schema import load_config
from tfrs_twotower.schema.features import Id
from tfrs_twotower.schema.prepared import NumberStatistics
from tfrs_twotower.training.train import train

EXAMPLES = Path(__file__).parent.parent / "examples"
MOVIES = EXAMPLES / "movie_catalogue.yaml"
NUM_USERS, NUM_MOVIES, NUM_TASTES = 80, 48, 4
LANGUAGES = ["en", "fr", "it", "ja"]


def test_the_content_of_a_film_is_796_values():
    config = load_config(MOVIES)
    content = {k: f for k, f in config.candidate_features.items() if not isinstance(f, Id)}
    rows = {"user_id": 5, "movie_id": 5, "language": 18}
    statistics = NumberStatistics(1, 0.0, 1.0, 0.0, 1.0, (0.0,) * 11)
    layer = DenseFeatures(
        content,
        embedding_tables(config, rows),
        dict.fromkeys(content, statistics),
        seed=1,
        name="content",
    )
    numbers = {"number": [1.0], "boolean": [1.0], "vector": [[0.5] * 768], "categorical": [3]}

    values = layer({name: tf.constant(numbers[f.kind]) for name, f in content.items()})

    # 7 numbers, 16 for the language, 5 flags, 768 of text.
    assert values.shape == (1, 796)
    assert values.shape[1] == 7 + 16 + 5 + 768


def write_catalogue(folder: Path) -> Path:
    """Films of four tastes, which their text vectors tell; the newest eight are new at the test."""
    folder.mkdir()
    draw = np.random.default_rng(3)
    taste_of = np.arange(NUM_MOVIES) % NUM_TASTES
    centres = draw.normal(size=[NUM_TASTES, 768])
    vectors = centres[taste_of] + 0.3 * draw.normal(size=[NUM_MOVIES, 768])
    movies = pd.DataFrame(
        {
            "movie_id": [f"m{movie:02}" for movie in range(NUM_MOVIES)],
            "title": [f"Film {movie}" for movie in range(NUM_MOVIES)],
            "language": [LANGUAGES[movie * 7 % 4] for movie in range(NUM_MOVIES)],
            "overview": [vector.astype(np.float32) for vector in vectors],
        }
    )
    for name in ("year", "runtime_min", "budget", "revenue", "popularity", "vote_average"):
        movies[name] = draw.uniform(1, 2000, NUM_MOVIES)
    movies["vote_count"] = [None if movie % 5 == 0 else float(movie) for movie in range(NUM_MOVIES)]
    for name in ("is_adult", "is_released", "is_in_collection", "has_homepage", "has_video"):
        movies[name] = draw.integers(0, 2, NUM_MOVIES).astype(bool)
    movies.to_parquet(folder / "candidates.parquet", index=False)
    old, new = np.arange(NUM_MOVIES - 8), np.arange(NUM_MOVIES - 8, NUM_MOVIES)
    events = []
    for user in range(NUM_USERS):
        liked = [movies[taste_of[movies] == user % NUM_TASTES] for movies in (old, new)]
        before = draw.permutation(liked[0])[:8]
        events += [(user, movie, 1_600_000_000 + 60 * k) for k, movie in enumerate(before)]
        events += [(user, movie, 1_700_000_000 + user) for movie in draw.permutation(liked[1])[:2]]
    log = pd.DataFrame(events, columns=["user_id", "movie_id", "timestamp"])
    log["user_id"] = "u" + log["user_id"].astype(str)
    log["movie_id"] = movies["movie_id"].to_numpy()[log["movie_id"]]
    log.to_parquet(folder / "interactions.parquet", index=False)
    return folder


@pytest.mark.slow
def test_films_that_nobody_has_seen_are_found_by_their_content(tmp_path):
    dataset = write_catalogue(tmp_path / "dataset")
    config = load_config(
        MOVIES,
        ["split.by=dates", "split.validation_from=2023-01-01", "split.test_from=2023-01-01"]
        + ["training.epochs=12", "training.batch_size=64", "training.learning_rate=0.005"]
        + ["towers.embedding_dim=16"],
    )
    prepare(config, str(dataset), str(tmp_path / "prepared"))
    train(config, tmp_path / "prepared", tmp_path / "run")

    evaluation = evaluate(tmp_path / "run", tmp_path / "prepared")

    # Two of the eight new films are of a user's taste, beside two old ones he has not seen.
    assert evaluation.systems["model"]["new candidates"]["recall_at_5"] > 0.9


@pytest.mark.slow
def test_the_pieces_serve_a_model_without_our_config(tmp_path, capsys):
    runpy.run_path(str(EXAMPLES / "your_own_model.py"))["main"](tmp_path)

    said = capsys.readouterr().out
    [recall], [chance] = (re.findall(name + r" ([0-9.]+)", said) for name in ("@100", "chance"))
    # A user's kind is a sixth of the corpus, and seven events in eight are of it.
    assert float(recall) > 4 * float(chance)
    servable = load(tmp_path / "retrieval" / "1", "retrieval", 1)
    found = servable.run("serving_default", {"user": np.array(["u007", "u009"], object)})
    kinds = [[int(item[1:]) % 6 for item in items] for items in found["candidate_ids"]]
    assert [max(set(of_user), key=of_user.count) for of_user in kinds] == [7 % 6, 9 % 6]
    assert found["valid_count"].tolist() == [10, 10]

"""Aggregates of both sides, from the log to a served answer: trained = saved = served."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.embed import embed as embed_in_batch
from serving.client import RetrievalClient
from serving.model_config import read_models_config
from serving.model_server import ModelServer, ServerOptions
from tests.pipelines.reference import aggregate, read_rows
from tfrs_twotower import api
from tfrs_twotower.data.batches import training_batches
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.models_folder import read_candidates
from tfrs_twotower.schema import UserError, load_config

# The fixture is a whole chain, from the log to a models folder.
pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, NUM_EVENTS = 25, 20, 600
DAY = 86_400
CONFIG = """\
columns: {query_id: user, candidate_id: item, timestamp: at, value: stars}
labels: {positive_from: 2}
features:
  query: {user: {kind: id}}
  context:
    seen: {kind: number, normalize: log, aggregate: {what: count, days: 7}}
    mood: {kind: number, aggregate: {what: mean, days: 30}}
  candidate:
    item: {kind: id}
    plays: {kind: number, aggregate: {what: count, days: 7}}
    rest: {kind: number, missing: {fill: 30.0}, aggregate: {what: recency}}
towers: {embedding_dim: 8}
training: {epochs: 2, batch_size: 64}
export: {retrieval: false}  # `retrieval_exact` alone, which is made faster.
"""


class World:
    """The folders of one chain, made once."""

    def __init__(self, root: Path) -> None:
        draw = np.random.default_rng(6)
        self.log = pd.DataFrame(
            {
                "user": [f"u{n}" for n in draw.integers(0, NUM_USERS, NUM_EVENTS)],
                "item": [f"i{n}" for n in draw.integers(0, NUM_ITEMS, NUM_EVENTS)],
                "at": DAY * 10_000 + draw.integers(0, 40 * DAY, NUM_EVENTS),
                "stars": draw.integers(1, 6, NUM_EVENTS),
            }
        )
        dataset = root / "dataset"
        dataset.mkdir()
        self.log.to_csv(dataset / "interactions.csv", index=False)
        (dataset / "twotower.yaml").write_text(CONFIG, encoding="utf-8")
        self.config = load_config(dataset / "twotower.yaml")
        self.prepared, self.models, run = (root / n for n in ("prepared", "models", "run"))
        api.prepare(self.config, dataset, self.prepared)
        api.train(self.config, self.prepared, run, progress=False)
        api.export(run, self.prepared, self.models)
        self.run = load_run(run, self.prepared)
        self.corpus = self.run.data.corpus()
        self.evaluation_set = load_evaluation_set(
            self.run.data, "test", unit="event", exclude_known=False
        )
        self.candidate_embeddings = embed(self.run.model.candidate_tower, self.corpus.features)

    def known(self, role: str, name: str, second: int) -> list[tuple[int, int, float]]:
        """The events of a user or an item before a second, as the definition reads them."""
        own = self.log[(self.log[role] == name) & (self.log["at"] < second)]
        return [
            (at, int(stars >= 2), float(stars)) for at, stars in own[["at", "stars"]].to_numpy()
        ]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def test_an_example_carries_its_own_candidate_s_values_not_those_of_the_corpus(world):
    examples = world.run.data.examples("train")
    config = world.config.model_copy(
        update={"training": world.config.training.model_copy(update={"batch_size": 10_000})}
    )

    [batch] = training_batches(examples, world.corpus, config, range(1)).as_numpy_iterator()

    positive = examples["label"] == 1
    for name in ("plays", "rest"):
        values = sorted(batch["candidate"][name])
        assert values == sorted(examples[name][positive])
        assert values != sorted(world.corpus.features[name][batch["candidate_row"]])
    # The other features of the candidate are the corpus'.
    expected = world.corpus.features["item"][batch["candidate_row"]]
    np.testing.assert_array_equal(batch["candidate"]["item"], expected)


def test_a_request_with_the_aggregates_of_its_moment_is_answered_as_in_training(world):
    data = world.run.data
    tests = data.examples("test")
    chosen = tests["label"] == 1
    order = np.lexsort(
        [tests[key][chosen] for key in ("candidate_row", "timestamp_s", "query_row")]
    )
    seconds = tests["timestamp_s"][chosen][order].tolist()
    users = data.query_ids()[world.evaluation_set.query_rows].tolist()
    queries = [
        {
            "user": user,
            "seen": aggregate(world.known("user", user, second), second, "count", 7),
            "mood": aggregate(world.known("user", user, second), second, "mean", 30),
        }
        for user, second in zip(users, seconds, strict=True)
    ]
    trained = embed(world.run.model.query_tower, world.evaluation_set.features)
    scores = trained @ world.candidate_embeddings.T

    models = read_models_config(world.models / "models.config")
    with ModelServer(models, rest_port=None, options=ServerOptions(optimize=False)) as server:
        target = f"127.0.0.1:{server.port}"
        with RetrievalClient(target, model="retrieval_exact", timeout_s=60) as client:
            embeddings, answers = client.embed(queries), client.recommend(queries, k=5)

    np.testing.assert_allclose(embeddings, trained, atol=1e-5)
    served = [answer.scores for answer in answers]
    np.testing.assert_allclose(served, -np.sort(-scores, axis=1)[:, :5], atol=1e-5)


def test_the_published_candidates_hold_the_values_and_vectors_of_the_end_of_train(world):
    table = read_candidates(world.models, 1)

    np.testing.assert_array_equal(table["plays"], world.corpus.features["plays"])
    published = np.stack(table["embedding"].to_list())
    np.testing.assert_allclose(published, world.candidate_embeddings, atol=1e-5)


def test_candidates_embedded_in_batch_have_the_same_vectors(world, tmp_path):
    embed_in_batch(
        str(world.models / "candidate_tower"), str(world.prepared), str(tmp_path / "embedded")
    )

    rows = read_rows(tmp_path / "embedded", "embeddings")
    vectors = {row["candidate_id"]: row["embedding"] for row in rows}
    vectors = [vectors[candidate_id] for candidate_id in world.corpus.candidate_ids]
    np.testing.assert_allclose(vectors, world.candidate_embeddings, atol=1e-5)


def test_a_refresh_gives_the_candidates_their_values_as_of_now(world, tmp_path):
    models = shutil.copytree(world.models, tmp_path / "models")
    before = read_candidates(models, 1)
    now = before[["candidate_id", "plays", "rest"]].rename(columns={"candidate_id": "item"})
    now.loc[0, "plays"] += 50
    now.to_csv(tmp_path / "candidates.csv", index=False)

    made = api.refresh(models, [tmp_path / "candidates.csv"])

    assert (made.num_changed, made.num_new, made.num_removed) == (1, 0, 0)
    assert read_candidates(models, made.version)["plays"].tolist() == now["plays"].tolist()


def test_a_refresh_without_an_aggregate_says_what_is_missing(world, tmp_path):
    (tmp_path / "candidates.csv").write_text("item,rest\ni1,3\n", encoding="utf-8")

    with pytest.raises(UserError) as caught:
        api.refresh(world.models, [tmp_path / "candidates.csv"])

    assert str(caught.value) == (
        f"{tmp_path}/candidates.csv has no column `plays`, named by `features.candidate.plays` "
        "(number of positives in 7 days, as of now): it has item, rest"
    )

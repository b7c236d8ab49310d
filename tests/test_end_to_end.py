"""Log lines -> recommendations over gRPC; trained, saved and served are the same."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from serving.client import RetrievalClient
from serving.histories import Histories
from serving.model_config import read_models_config
from serving.model_server import ModelServer
from tests import cc_loader
from tfrs_twotower import api
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.models_folder import complete_query
from tfrs_twotower.schema import UserError, load_config
from tfrs_twotower.schema.scann_ops import scann_op_library

NUM_USERS, NUM_ITEMS, EVENTS_OF_USER = 40, 30, 8
HISTORY = 4
START_S = int(datetime(2024, 3, 30, 22, tzinfo=UTC).timestamp())
CONFIG = f"""\
columns: {{query_id: user, candidate_id: item, timestamp: at, title: title}}
split: {{by: leave_last_out}}
features:
  query:
    user: {{kind: id}}
    age: {{kind: number}}
    likes: {{kind: multi_categorical}}
    history: {{kind: history, length: {HISTORY}}}
  context:
    clock: {{kind: timestamp, time_zone: Europe/Paris}}
    on_phone: {{kind: boolean, column: phone}}
  candidate:
    item: {{kind: id}}
    genre: {{kind: categorical, missing: indicator}}
    title_words: {{kind: text, column: title, buckets: 64}}
    content: {{kind: vector, dimension: 3}}
towers: {{embedding_dim: 8, query: {{hidden_units: [16]}}}}
training: {{epochs: 2, batch_size: 32}}
export: {{default_k: 5, attributes: [genre]}}
"""


def item_of(user: int, event: int) -> int:
    """A walk through the items that meets none twice (7 and 30 have no common divisor)."""
    return (3 * user + 7 * event) % NUM_ITEMS


def write_dataset(folder: Path) -> Path:
    folder.mkdir()
    log = [
        {
            "user": f"u{user}",
            "item": f"i{item_of(user, event)}",
            "at": START_S + 3600 * event + user,
            "phone": [True, False, None][(user + event) % 3],
        }
        for user in range(NUM_USERS)
        for event in range(EVENTS_OF_USER)
    ]
    pd.DataFrame(log).sample(frac=1, random_state=1).to_json(
        folder / "interactions.jsonl", orient="records", lines=True
    )
    pd.DataFrame(
        {
            "item": [f"i{item}" for item in range(NUM_ITEMS)],
            "genre": [["noir", "farce", None][item % 3] for item in range(NUM_ITEMS)],
            "title": [f"The {item}th Étude" for item in range(NUM_ITEMS)],
            "content": [[item / 10, 1.0, -item / 7] for item in range(NUM_ITEMS)],
        }
    ).to_parquet(folder / "candidates.parquet", index=False)
    pd.DataFrame(
        {
            "user": [f"u{user}" for user in range(NUM_USERS)],
            "age": [float(20 + user) if user % 5 else None for user in range(NUM_USERS)],
            "likes": [["noir|farce", "farce", ""][user % 3] for user in range(NUM_USERS)],
        }
    ).to_csv(folder / "queries.csv", index=False)
    (folder / "twotower.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


def query_at_last_event(user: int) -> dict[str, object]:
    """What a client knows at the user's last event, written down without the pipeline."""
    last = EVENTS_OF_USER - 1
    return {
        "user": f"u{user}",
        "age": float(20 + user) if user % 5 else None,
        "likes": [["noir", "farce"], ["farce"], []][user % 3],
        "history": [f"i{item_of(user, event)}" for event in range(last - HISTORY, last)],
        "clock": START_S + 3600 * last + user,
        "on_phone": [True, False, None][(user + last) % 3],
    }


class World:
    """The folders of one chain, made once."""

    def __init__(self, root: Path) -> None:
        dataset = write_dataset(root / "dataset")
        self.config = load_config(dataset / "twotower.yaml")
        self.prepared, self.run_folder, self.models = (
            root / name for name in ("prepared", "run", "models")
        )
        self.manifest = api.prepare(self.config, dataset, self.prepared).manifest
        api.train(self.config, self.prepared, self.run_folder, progress=False)
        api.export(self.run_folder, self.prepared, self.models)
        self.run = load_run(self.run_folder, self.prepared)
        self.corpus = self.run.data.corpus()
        self.candidate_embeddings = embed(self.run.model.candidate_tower, self.corpus.features)
        evaluation_set = load_evaluation_set(self.run.data, "test", exclude_known=False)
        self.query_ids = self.run.data.query_ids()[evaluation_set.query_rows].tolist()
        self.query_embeddings = embed(self.run.model.query_tower, evaluation_set.features)
        self.queries = [query_at_last_event(int(name[1:])) for name in self.query_ids]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def target(world):
    models = read_models_config(world.models / "models.config")
    with ModelServer(models, rest_port=None) as server:
        yield f"127.0.0.1:{server.port}"


def test_every_event_became_an_example_of_its_split(world):
    examples = world.manifest["counts"]["examples"]

    # The last event of each user tests, the one before validates.
    assert {split: count["positives"] for split, count in examples.items()} == {
        "train": NUM_USERS * (EVENTS_OF_USER - 2),
        "validation": NUM_USERS,
        "test": NUM_USERS,
    }


def test_the_served_query_embedding_is_the_trained_one(world, target):
    with RetrievalClient(target, timeout_s=60) as client:
        served = client.embed(world.queries)

    np.testing.assert_allclose(served, world.query_embeddings, atol=1e-5)


def test_the_published_candidate_embedding_is_the_trained_one(world):
    table = pd.read_parquet(world.models / "candidates" / "1")

    assert table["candidate_id"].tolist() == world.corpus.candidate_ids.tolist()
    published = np.stack(table["embedding"].to_list())
    np.testing.assert_allclose(published, world.candidate_embeddings, atol=1e-5)


@pytest.mark.parametrize("model", ["retrieval", "retrieval_exact"])
def test_the_served_answer_is_the_ranking_of_the_trained_vectors(world, target, model):
    scores = world.query_embeddings @ world.candidate_embeddings.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]

    with RetrievalClient(target, model=model, timeout_s=60) as client:
        answers = client.recommend(world.queries, k=5)

    expected = world.corpus.candidate_ids[best].tolist()
    assert [answer.candidate_ids for answer in answers] == expected
    served = [answer.scores for answer in answers]
    np.testing.assert_allclose(served, np.take_along_axis(scores, best, axis=1), atol=1e-5)


@pytest.mark.parametrize("model", ["retrieval", "retrieval_exact"])
@pytest.mark.slow
def test_the_cpp_loader_answers_as_the_server(world, target, model):
    query = query_at_last_event(11)
    with RetrievalClient(target, model=model, timeout_s=60) as client:
        [answer] = client.recommend(query, k=5)

    loaded = cc_loader.predict(
        world.models / model / "1",
        "serving_default",
        {
            "user": ["u11"],
            "age": [31.0],
            "likes": [[]],
            "history": [query["history"]],
            "clock": [query["clock"]],
            "on_phone": [1.0 if query["on_phone"] else 0.0],
        },
        scann_op_library() if model == "retrieval" else None,
    )

    assert [name.decode() for name in loaded["candidate_ids"][0]] == answer.candidate_ids
    np.testing.assert_allclose(loaded["scores"][0], answer.scores, atol=1e-5)


def test_a_click_changes_the_next_answer_without_training(world, target):
    query = query_at_last_event(3)
    clicked = {**query, "history": [*query["history"], "i29"]}

    with RetrievalClient(target, timeout_s=60) as client:
        before, after = client.recommend([query, clicked], k=NUM_ITEMS)

    assert before.scores != after.scores
    assert sorted(before.candidate_ids) == sorted(after.candidate_ids)


def test_a_click_is_kept_and_changes_the_next_answer(world, target, database):
    """No state in the caller: profile, history and what was had are in the database."""
    api.embeddings_to_mongodb(world.models, database)
    query = {"user": "u7", "clock": START_S, "on_phone": None}
    left = NUM_ITEMS - EVENTS_OF_USER
    with Histories(database) as histories, RetrievalClient(target, timeout_s=60) as client:
        assert histories.complete(query) == api.complete_query(world.models, query)
        before = client.recommend_one(histories.complete(query), k=left)
        clicked = before.candidate_ids[0]
        histories.append("u7", clicked, START_S)
        after = client.recommend_one(histories.complete(query), k=left)

    assert len(before.candidate_ids) == left
    assert sorted([clicked, *after.candidate_ids]) == sorted(before.candidate_ids)
    # Not only one candidate less: the history of the query is another, and so are the scores.
    scores = dict(zip(before.candidate_ids, before.scores, strict=True))
    assert after.scores != [scores[candidate] for candidate in after.candidate_ids]


def test_recommend_fills_in_profile_and_history_of_a_known_user(world):
    known = complete_query(world.models, 1, {"user": "u7"})

    assert known["age"] == 27.0
    assert known["likes"] == ["farce"]
    # As of now: the last event is behind the user.
    last = [f"i{item_of(7, event)}" for event in range(EVENTS_OF_USER - HISTORY, EVENTS_OF_USER)]
    assert known["history"] == last


def test_recommend_without_a_server_answers_as_with_one(world, target):
    query = {"user": "u7", "clock": START_S, "on_phone": None}
    alone = api.recommend(world.models, query, k=4, exclude_ids=["i1"])

    assert alone == api.recommend(world.models, query, target=target, k=4, exclude_ids=["i1"])
    assert len(alone.candidate_ids) == 4


def test_what_a_user_already_had_is_not_recommended_unless_that_is_asked(world, target):
    query = {"user": "u7", "clock": START_S, "on_phone": None}
    had = {f"i{item_of(7, event)}" for event in range(EVENTS_OF_USER)}
    everything = {f"i{item}" for item in range(NUM_ITEMS)}
    assert HISTORY < len(had) < NUM_ITEMS - 1

    unread = api.recommend(world.models, query, target=target, k=NUM_ITEMS, exclude_ids=["i1"])
    all_of_them = api.recommend(
        world.models, query, target=target, k=NUM_ITEMS, exclude_known=False
    )

    assert set(unread.candidate_ids) == everything - had - {"i1"}
    assert unread.num_excluded == len(had | {"i1"})
    assert unread.pool_size == len(unread.candidate_ids)
    assert set(all_of_them.candidate_ids) == everything
    assert all_of_them.num_excluded == 0


def test_a_version_without_known_positives_leaves_the_history_out_and_says_so(
    world, target, tmp_path
):
    models = tmp_path / "models"
    shutil.copytree(world.models, models)
    [stored] = (models / "queries" / "1").iterdir()
    pq.write_table(pq.read_table(stored).drop_columns(["exclude_ids"]), stored)
    query = {"user": "u7", "clock": START_S, "on_phone": None}

    with pytest.warns(UserWarning, match="without the known positives of queries: only the hist"):
        answer = api.recommend(models, query, target=target, k=NUM_ITEMS)

    last = {f"i{item_of(7, event)}" for event in range(EVENTS_OF_USER - HISTORY, EVENTS_OF_USER)}
    assert set(answer.candidate_ids) == {f"i{item}" for item in range(NUM_ITEMS)} - last


def test_k_beyond_the_corpus_gives_the_whole_corpus(world, target):
    with RetrievalClient(target, timeout_s=60) as client:
        [answer] = client.recommend(query_at_last_event(0), k=NUM_ITEMS + 50)

    assert sorted(answer.candidate_ids) == sorted(f"i{item}" for item in range(NUM_ITEMS))


def test_a_user_nobody_knows_gets_an_answer(world):
    query = {"user": "nobody", "clock": START_S, "on_phone": True}
    with pytest.warns(UserWarning, match="id is not known: it is answered as a new one"):
        answer = api.recommend(world.models, query, k=6)

    assert len(set(answer.candidate_ids)) == 6


def test_a_moment_that_is_not_given_is_told_and_counts_as_missing(world, target):
    with pytest.warns(UserWarning, match="not given, so taken as missing: clock, on_phone$"):
        answer = api.recommend(world.models, {"user": "u7"}, target=target, k=6)

    told = {"user": "u7", "clock": None, "on_phone": None}
    assert answer == api.recommend(world.models, told, target=target, k=6)


@pytest.fixture(scope="module")
def models_of_histories(tmp_path_factory):
    """A query tower that reads the history and nothing else."""
    root = tmp_path_factory.mktemp("histories")
    dataset = write_dataset(root / "dataset")
    query = f"{{history: {{kind: history, length: {HISTORY}, encoder: gru}}}}"
    config = load_config(
        dataset / "twotower.yaml",
        [f"features={{query: {query}, candidate: {{item: {{kind: id}}}}}}", "export.attributes=[]"],
    )
    api.prepare(config, dataset, root / "prepared")
    api.train(config, root / "prepared", root / "run")
    api.export(root / "run", root / "prepared", root / "models")
    return root / "models"


@pytest.mark.slow
def test_a_tower_of_histories_answers_known_and_unknown_users_and_each_click(models_of_histories):
    models = read_models_config(models_of_histories / "models.config")
    had = [f"i{item_of(7, event)}" for event in range(EVENTS_OF_USER - HISTORY, EVENTS_OF_USER)]
    with ModelServer(models, rest_port=None) as server:
        target = f"127.0.0.1:{server.port}"
        known = api.recommend(
            models_of_histories, {"user": "u7"}, target=target, k=NUM_ITEMS, exclude_known=False
        )
        with pytest.warns(UserWarning, match="not known"):
            unknown = api.recommend(
                models_of_histories, {"user": "new"}, target=target, k=NUM_ITEMS
            )
        with RetrievalClient(target, timeout_s=60) as client:
            of_had, of_none, clicked = client.recommend(
                [{"history": had}, {"history": []}, {"history": [*had[1:], "i29"]}], k=NUM_ITEMS
            )

    assert known.candidate_ids == of_had.candidate_ids
    assert unknown.candidate_ids == of_none.candidate_ids
    assert clicked.candidate_ids != of_had.candidate_ids


@pytest.mark.slow
def test_a_second_export_is_version_two_of_every_model(world, tmp_path):
    first = api.export(world.run_folder, world.prepared, tmp_path / "models")
    second = api.export(world.run_folder, world.prepared, tmp_path / "models")

    assert (first.version, second.version) == (1, 2)
    versions = {
        path.name: sorted(version.name for version in path.iterdir())
        for path in (tmp_path / "models").iterdir()
        if path.is_dir()
    }
    assert set(map(tuple, versions.values())) == {("1", "2")}


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_is_served_or_counted(world, tmp_path, monkeypatch):
    models = tmp_path / "models"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tfrs_twotower.publishing.export._write_queries", killed)
        with pytest.raises(KeyboardInterrupt):
            api.export(world.run_folder, world.prepared, models)

    with pytest.raises(UserError, match="no models in"):
        api.recommend(models, {"user": "u1"})
    assert api.export(world.run_folder, world.prepared, models).version == 1


def test_data_of_another_preparation_is_refused(world, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    log = dataset / "interactions.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-60]))
    api.prepare(world.config, dataset, tmp_path / "prepared")

    with pytest.raises(UserError, match="trained on other data"):
        api.evaluate(world.run_folder, tmp_path / "prepared")


def test_data_of_which_one_value_has_changed_are_refused(world, tmp_path):
    dataset = write_dataset(tmp_path / "dataset")
    log = dataset / "interactions.jsonl"
    log.write_text(log.read_text().replace('"phone":true', '"phone":false', 1))
    api.prepare(world.config, dataset, tmp_path / "prepared")

    with pytest.raises(UserError, match=r"trained on other data .* \(different: examples\)"):
        api.evaluate(world.run_folder, tmp_path / "prepared")


def test_the_manifest_of_a_model_names_its_versions_and_operations(world):
    extra = world.models / "retrieval" / "1" / "assets.extra"
    manifest = json.loads((extra / "manifest.json").read_text())

    assert manifest["schema_fingerprint"] == world.config.fingerprint()
    assert any(op.startswith("Scann>") for op in manifest["custom_ops"])
    assert manifest["versions"].keys() >= {"tensorflow", "scann"}

"""Every command on exports without `retrieval`: it works, or says in a line what to do."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.embed import embed as embed_in_batch
from pipelines.recommend import recommend as recommend_in_batch
from serving.client import RetrievalClient
from serving.model_config import read_models_config
from serving.model_server import ModelServer, ServerOptions
from tests import small_shop
from tests.pipelines.reference import files_of
from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.publishing.models_folder import PART, asked_model, complete_query, latest_version
from tfrs_twotower.publishing.release import Limits, release_gate
from tfrs_twotower.publishing.versions import set_label
from tfrs_twotower.schema import parse_config

# A chain of its own, with many servers.
pytestmark = pytest.mark.slow

NOW = small_shop.FIRST_DAY + 91 * 86_400
QUERY = {"user": "u07", "clock": NOW}
WITHOUT = small_shop.CONFIG_TEXT.replace("export: {", "export: {retrieval: false, ")
CONFIGS = {
    "dot_product": WITHOUT,
    "scoring_layer": WITHOUT.replace(
        "embedding_dim: 8}",
        "embedding_dim: 8, context_mode: scoring_layer, scoring_hidden_units: [6]}\n"
        "loss: {kind: bce}",
    ),
}
FOLDERS = ("candidates", "queries", "query_tower", "candidate_tower", "retrieval_exact")
MODELS = set(FOLDERS[2:])


class Made(NamedTuple):
    """The folders of an export, and how it scores."""

    scores_by: str
    prepared: Path
    run: Path
    models: Path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The dataset folder and the prepared folder, which all exports share."""
    folder = tmp_path_factory.mktemp("shop")
    small_shop.write_dataset(folder / "dataset")
    api.prepare(parse_config(WITHOUT, "test"), folder / "dataset", folder / "prepared")
    return folder / "dataset", folder / "prepared"


def make(folder: Path, scores_by: str, prepared: Path, config_text: str) -> Made:
    made = Made(scores_by, prepared, folder / "run", folder / "models")
    api.train(parse_config(config_text, "test"), prepared, made.run, progress=False)
    api.export(made.run, prepared, made.models)
    return made


@pytest.fixture(
    scope="module",
    params=["scoring_layer", "dot_product"],
)
def made(request, data, tmp_path_factory):
    """Version 1; not to be changed."""
    folder = tmp_path_factory.mktemp(request.param)
    return make(folder, request.param, data[1], CONFIGS[request.param])


@pytest.fixture
def copied(made, tmp_path):
    """A copy, to be changed at will."""
    models = tmp_path / "models"
    shutil.copytree(made.models, models)
    for name in ("models.config", "models.stock.config"):
        path = models / name
        path.write_text(path.read_text().replace(str(made.models), str(models)))
    return made._replace(models=models)


@pytest.fixture(scope="module")
def target(made):
    configs = read_models_config(made.models / "models.config")
    with ModelServer(configs, rest_port=None, options=ServerOptions(optimize=False)) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def said(capsys):
    """Runs a command that must succeed; what it says on stdout."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail; its one or two lines."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 1
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) <= 2
        return said

    return run


def served(models: Path) -> dict[str, dict[str, int]]:
    """The labels of each model that a server is told to serve."""
    return {
        model.name: dict(model.labels) for model in read_models_config(models / "models.config")
    }


def copy_version(models: Path, old: int, new: int) -> None:
    for name in FOLDERS:
        shutil.copytree(models / name / str(old), models / name / str(new))


def test_the_server_is_told_of_the_models_that_are_there(made):
    assert not (made.models / "retrieval").exists()
    assert set(served(made.models)) == MODELS


def test_versions_lists_what_is_there(made, said):
    (version,) = json.loads(said("versions", "--models", made.models, "--json"))

    assert (version["number"], version["corpus_size"]) == (1, small_shop.NUM_ITEMS)
    assert version["recall"] is None


def test_signatures_lists_the_models_that_are_there(made, said):
    found = json.loads(said("signatures", "--models", made.models, "--json"))

    assert {signature["model"] for signature in found} == MODELS


def test_signatures_of_retrieval_are_refused_with_what_there_is(made, refused):
    assert "it has query_tower, candidate_tower, retrieval_exact" in refused(
        "signatures", "--models", made.models, "--model", "retrieval"
    )


def test_a_version_is_promoted_and_rolled_back(copied, said):
    copy_version(copied.models, 1, 2)
    words = ("--models", copied.models)

    said("promote", *words, "--version", 1)
    gate = json.loads(said("promote", *words, "--json"))
    labels = served(copied.models)
    back = json.loads(said("rollback", *words, "--json"))

    assert (gate["version"], gate["served_version"], gate["is_go"]) == (2, 1, True)
    # The same models give the same answers.
    assert {check["name"]: check["new"] for check in gate["checks"]}["overlap@10"] == "1.00"
    assert labels == dict.fromkeys(MODELS, {"stable": 2})
    assert back["version"] == 1
    assert served(copied.models) == dict.fromkeys(MODELS, {"stable": 1})


def test_the_gate_compares_queries_with_and_without_a_history_apart(copied):
    """The first half of the queries has lost its history."""
    copy_version(copied.models, 1, 2)
    set_label(copied.models, 1)
    path = copied.models / "queries" / "2" / PART
    table = pq.read_table(path)
    histories = table["history"].to_pylist()
    half = len(histories) // 2
    kept = pa.array([[]] * half + histories[half:], table["history"].type)
    column = table.column_names.index("history")
    pq.write_table(table.set_column(column, "history", kept), path)

    gate = release_gate(copied.models, 2, Limits(min_overlap_same_towers=1.01))

    assert gate.reasons == [
        "only 100% of the answers are those of version 1",
        "only 100% of the answers for queries with a history are those of version 1",
        "only 100% of the answers for queries without a history are those of version 1",
    ]


@pytest.mark.parametrize(
    "image",
    ["embedded", "tensorflow/serving:2.20.0"],
)
def test_the_doctor_finds_nothing_wrong(made, said, image):
    findings = json.loads(said("doctor", made.models, "--target", image, "--json"))

    assert {finding["level"] for finding in findings} == {"ok"}
    scores = [f["where"] for f in findings if "have the scores of the towers" in f["what"]]
    # What a layer scores is no product of vectors.
    assert scores == (["retrieval_exact/1"] if made.scores_by == "dot_product" else [])


def test_the_doctors_cure_for_a_stored_vector_is_one_that_works(copied, capsys):
    path = copied.models / "candidates" / "1" / "part-00000.parquet"
    stored = pd.read_parquet(path)
    stored["embedding"] = [np.roll(vector, 1) for vector in stored["embedding"]]
    stored.to_parquet(path)

    assert main(["doctor", str(copied.models)]) == 1

    command = {"dot_product": "twotower refresh", "scoring_layer": "twotower export"}
    assert f"`{command[copied.scores_by]}`" in capsys.readouterr().out


def test_evaluate_finds_that_no_index_misses_anything(made, said):
    words = ("--run", made.run, "--data", made.prepared, "--models", made.models)

    report = json.loads(said("evaluate", *words, "--json", "-"))

    for row in report["attribution"]:
        assert row["missed_by_index"] == 0
        assert row["found"] + row["missed_by_model"] == report["num_positives"]
    costs = json.loads((made.run / "evaluation" / "operations.json").read_text())
    assert set(costs["model_load_s"]) == MODELS


def test_a_report_shows_the_exact_index(made, said, tmp_path):
    words = ("--run", made.run, "--data", made.prepared)
    said("evaluate", *words)

    said("report", "--run", made.run, "--models", made.models, "--output", tmp_path / "page.html")

    assert "Version 1: exact;" in (tmp_path / "page.html").read_text()


def test_other_candidates_are_refreshed_or_refused_with_the_way_out(
    copied, data, said, refused, tmp_path
):
    table = pd.read_parquet(data[0] / "candidates.parquet")
    table.loc[0, "item"] = "new"
    table.to_parquet(tmp_path / "candidates.parquet")
    words = ("refresh", "--models", copied.models, "--candidates", tmp_path / "candidates.parquet")

    if copied.scores_by == "scoring_layer":
        assert "train with a warm start" in refused(*words)
        assert latest_version(copied.models) == 1
        return
    counts = json.loads(said(*words, "--json"))

    assert (counts["version"], counts["new"], counts["removed"]) == (2, 1, 1)
    assert counts["recall"] is None
    answer = api.recommend(copied.models, QUERY, k=small_shop.NUM_ITEMS, exclude_known=False)
    assert answer.model_version == 2
    assert set(answer.candidate_ids) == set(table["item"])


def test_recommend_gives_what_a_client_of_the_exact_model_gets(made, target, said):
    words = ("recommend", "--query", json.dumps(QUERY), "--k", 7, "--json")
    with RetrievalClient(target, model="retrieval_exact", timeout_s=60) as client:
        unknown = dict.fromkeys(client.query_features())
        completed = {**unknown, **complete_query(made.models, 1, QUERY)}
        (expected,) = client.recommend(completed, k=7)

    local = json.loads(said(*words, "--models", made.models))
    remote = json.loads(said(*words, "--models", made.models, "--target", target))

    for found in (local, remote):
        assert found["candidate_ids"] == expected.candidate_ids
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-6)


def test_recommend_asks_a_server_whose_models_folder_it_does_not_see(target, said):
    words = ("recommend", "--query", json.dumps(QUERY), "--target", target, "--k", 3, "--json")

    assert len(json.loads(said(*words))["candidate_ids"]) == 3


def test_titles_have_a_column_where_the_models_folder_is_named(made, target, said):
    words = ("recommend", "--query", json.dumps(QUERY), "--target", target, "--k", 3)

    alone, beside = said(*words), said(*words, "--models", made.models)

    assert "title" not in alone
    assert "title" in beside
    assert "Title " in beside


def test_a_client_embeds_scores_and_recommends(made, target):
    query = {**QUERY, "history": ["i05"], "city": "Oslo", "member": True}
    with RetrievalClient(target, timeout_s=60) as client:
        (answer,) = client.recommend(query, k=4)
        (scores,) = client.score(query, answer.candidate_ids)
        embeddings = client.embed(query)

    np.testing.assert_allclose(scores, answer.scores, atol=1e-6)
    # A scoring layer reads user and moment side by side.
    assert embeddings.shape == (1, 16 if made.scores_by == "scoring_layer" else 8)


def test_batches_of_queries_are_answered_as_online(made, target, tmp_path):
    users = [f"u{number:02d}" for number in (3, 41, 99)]
    queries = pd.DataFrame({"user": users, "clock": NOW + 3600 * np.arange(3)})
    queries.to_parquet(tmp_path / "queries.parquet")

    manifest = recommend_in_batch(
        str(made.models), str(tmp_path / "queries.parquet"), str(tmp_path / "out"), k=6
    )

    assert (manifest["model"], manifest["version"]) == ("retrieval_exact", 1)
    found = pd.concat(map(pd.read_parquet, files_of(tmp_path / "out", "parts")))
    with RetrievalClient(target, timeout_s=60) as client:
        unknown = dict.fromkeys(client.query_features())
        asked = [
            {**unknown, **complete_query(made.models, 1, query)}
            for query in queries.to_dict("records")
        ]
        expected = client.recommend(asked, k=6)
    assert found["query_id"].tolist() == users
    for ids, scores, answer in zip(found["candidate_ids"], found["scores"], expected, strict=True):
        assert ids.tolist() == answer.candidate_ids
        np.testing.assert_allclose(scores, answer.scores, atol=1e-6)


def test_candidates_are_embedded_in_batch_as_they_are_stored(made, tmp_path):
    model = str(made.models / "candidate_tower")

    embed_in_batch(model, str(made.prepared), str(tmp_path / "out"))

    found = pd.concat(map(pd.read_parquet, files_of(tmp_path / "out", "embeddings")))
    stored = pd.read_parquet(made.models / "candidates" / "1").set_index("candidate_id")
    expected = stored.loc[found["candidate_id"], "embedding"]
    np.testing.assert_allclose(np.stack(found["embedding"]), np.stack(expected), atol=1e-6)


def test_embeddings_are_written_for_every_candidate(made, said, tmp_path):
    words = ("--models", made.models, "--output", tmp_path / "out")

    assert said("embeddings", *words).startswith(f"{small_shop.NUM_ITEMS} embeddings of 8")


def test_users_are_embedded_ahead_of_the_moment_or_refused_with_the_way_out(
    made, said, refused, tmp_path
):
    words = ("user-embeddings", "--models", made.models, "--output", tmp_path / "out")

    if made.scores_by == "dot_product":  # Its tower reads user and context together.
        assert "`context_mode: trilinear`" in refused(*words)
        return
    assert f"{small_shop.NUM_USERS}" in said(*words)
    assert len(pd.read_parquet(tmp_path / "out" / "part-00000.parquet")) == small_shop.NUM_USERS


def test_the_demo_asks_the_exact_model(data, said, tmp_path):
    dataset = tmp_path / "dataset"
    shutil.copytree(data[0], dataset)
    (dataset / "twotower.yaml").write_text(CONFIGS["scoring_layer"], encoding="utf-8")

    shown = said("demo", "--dataset", dataset, "--workdir", tmp_path / "demo")

    assert shown.count("had last (newest first)") == 3


@pytest.fixture(scope="module")
def mixed(data, tmp_path_factory):
    """Version 1 has `retrieval`, version 2 has none."""
    folder = tmp_path_factory.mktemp("mixed")
    usual = make(folder / "usual", "dot_product", data[1], small_shop.CONFIG_TEXT)
    other = make(folder / "other", "dot_product", data[1], WITHOUT)
    api.export(other.run, data[1], usual.models)
    return usual.models


def test_a_newer_version_without_retrieval_is_the_newest(mixed):
    assert latest_version(mixed) == 2
    assert (asked_model(mixed, 1), asked_model(mixed, 2)) == ("retrieval", "retrieval_exact")
    assert api.recommend(mixed, QUERY, k=2).model_version == 2


def test_an_older_retrieval_does_not_go_on_answering(mixed):
    assert set(served(mixed)) == MODELS


def test_a_version_that_lost_its_retrieval_is_not_the_newest(mixed, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(mixed, models)
    copy_version(models, 1, 3)

    assert latest_version(models) == 2


def test_each_label_is_given_to_the_models_that_the_version_has(mixed, tmp_path, said):
    models = tmp_path / "models"
    shutil.copytree(mixed, models)

    said("promote", "--models", models, "--version", 1)
    said("promote", "--models", models, "--version", 2, "--label", "canary", "--force")

    both = {"stable": 1, "canary": 2}
    assert served(models) == {**dict.fromkeys(MODELS, both), "retrieval": {"stable": 1}}
    said("promote", "--models", models, "--version", 2, "--force")
    assert served(models) == dict.fromkeys(MODELS, {"stable": 2})
    said("rollback", "--models", models)
    assert served(models) == dict.fromkeys([*MODELS, "retrieval"], {"stable": 1})


def test_batches_are_answered_by_the_newest_version(mixed, tmp_path):
    pd.DataFrame({"user": ["u01"], "clock": [NOW]}).to_parquet(tmp_path / "queries.parquet")

    manifest = recommend_in_batch(
        str(mixed), str(tmp_path / "queries.parquet"), str(tmp_path / "out"), k=2
    )

    assert (manifest["model"], manifest["version"]) == ("retrieval_exact", 2)

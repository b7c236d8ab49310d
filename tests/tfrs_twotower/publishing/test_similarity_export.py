"""`similarity` of a models folder: written, served and refreshed."""

import subprocess
import sys

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.client import UNKNOWN_CANDIDATE_SCORE, RetrievalClient
from serving.errors import ServerFaultError
from serving.model_config import ModelConfig, read_models_config
from serving.model_server import ModelServer, ServerOptions
from tests.tiny_world import CONFIG_TEXT, candidate_id, query_id
from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.export import export
from tfrs_twotower.publishing.models_folder import read_candidates
from tfrs_twotower.publishing.refresh import refresh
from tfrs_twotower.publishing.saved_model_reader import LoadedQueryTower
from tfrs_twotower.publishing.signature_reference import signatures
from tfrs_twotower.publishing.similarity_export import write_similarity
from tfrs_twotower.retrieval.retriever import CandidateIds
from tfrs_twotower.schema import parse_config

CONFIG = """\
columns: {timestamp: ts}
features:
  query: {taste: {kind: vector, dimension: 2}}
  candidate: {item: {kind: id}}
export: {similarity: true}
"""
WITH_CONTEXT = CONFIG.replace("export:", "  context: {clock: {kind: timestamp}}\nexport:")
EMBEDDINGS = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
CANDIDATES = ["a", "b", "c"]
QUERIES = pa.table({"user": ["east", "north"], "taste": [[1.0, 0.0], [0.0, 1.0]]})
# A process of its own: nothing of ours is there.
ASK = """\
import sys
import tensorflow as tf
score = tf.saved_model.load(sys.argv[1]).signatures["score"]
ids = tf.constant([["b", "", "a"]] * 2)
print(score(query_id=tf.constant(["east", "nobody"]), candidate_ids=ids)["scores"].numpy().tolist())
print(any(name.startswith(("tfrs_twotower", "serving")) for name in sys.modules))
"""


def written(folder, text=CONFIG):
    """The folder of version 1, and its manifest."""
    (folder / "queries").mkdir()
    stored = QUERIES.replace_schema_metadata({b"query_key": b"user"})
    pq.write_table(stored, folder / "queries" / "part-00000.parquet")
    config = parse_config(text, "here")
    tower = lambda inputs: inputs["taste"]  # noqa: E731
    ids = CandidateIds(CANDIDATES)
    manifest = write_similarity(folder, tower, ids, EMBEDDINGS, config, {"origin": "export"})
    (folder / "similarity").rename(folder / "1")
    (folder / "similarity").mkdir()
    return (folder / "1").rename(folder / "similarity" / "1"), manifest


@pytest.fixture(scope="module")
def similarity(tmp_path_factory):
    return written(tmp_path_factory.mktemp("models"))


def test_any_server_can_load_it(similarity):
    assert similarity[1]["custom_ops"] == []
    assert similarity[1]["origin"] == "export"


@pytest.mark.slow
def test_it_answers_in_a_process_without_the_project(similarity, tmp_path):
    command = [sys.executable, "-c", ASK, str(similarity[0])]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)

    scores, is_imported = printed.stdout.splitlines()[-2:]
    unknown = float(np.finfo(np.float32).min)
    expected = [[0.8, unknown, 1.0], [unknown] * 3]
    np.testing.assert_allclose(eval(scores), expected, rtol=1e-6)
    assert is_imported == "False"


def test_queries_that_need_the_context_are_not_stored(tmp_path):
    folder, _ = written(tmp_path, WITH_CONTEXT)

    loaded = tf.saved_model.load(str(folder))
    assert set(loaded.signatures) == {"score_embedding"}


@pytest.fixture(scope="module")
def favouring_b(similarity):
    """A server whose hook adds 1 to the scores of "b", and fails for the query "west"."""

    def post_score(candidate_ids, scores, inputs):
        if "west" in inputs.get("query_id", ()):
            raise RuntimeError("a secret of the hook")
        return scores + (candidate_ids == "b")

    models = [ModelConfig("similarity", similarity[0].parent)]
    with ModelServer(models, options=ServerOptions(post_score=post_score)) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    "query", [{"query_id": "east"}, {"query_embedding": [3.0, 0.0]}], ids=["id", "embedding"]
)
def test_the_embedded_server_answers_by_grpc(similarity, query):
    models = [ModelConfig("similarity", similarity[0].parent)]
    with (
        ModelServer(models, rest_port=None) as server,
        RetrievalClient(f"127.0.0.1:{server.port}", model="similarity", timeout_s=60) as client,
    ):
        [scores] = client.score(query, ["c", "x", "b"])

    assert scores == pytest.approx([0.0, UNKNOWN_CANDIDATE_SCORE, 0.8])


def test_the_server_answers_with_the_scores_of_the_hook(favouring_b):
    with RetrievalClient(favouring_b, model="similarity", timeout_s=60) as client:
        [scores] = client.score({"query_id": "east"}, ["c", "x", "b"])

    assert scores == pytest.approx([0.0, UNKNOWN_CANDIDATE_SCORE, 1.8])


def test_a_hook_that_fails_is_told_to_the_log_alone(favouring_b, caplog):
    with (
        RetrievalClient(favouring_b, model="similarity", timeout_s=60) as client,
        pytest.raises(ServerFaultError) as caught,
    ):
        client.score({"query_id": "west"}, ["b"])

    assert caught.value.status is grpc.StatusCode.INTERNAL
    assert "secret" not in str(caught.value)
    assert "a secret of the hook" in caplog.text


def score(models, version, candidate_ids):
    """What the model of a version answers for one query."""
    loaded = tf.saved_model.load(str(models / "similarity" / str(version)))
    inputs = {
        "query_id": tf.constant([query_id(3)]),
        "candidate_ids": tf.constant([candidate_ids]),
    }
    return loaded.signatures["score"](**inputs)["scores"].numpy()[0]


@pytest.mark.slow
def test_export_and_refresh_write_it_where_the_config_wants_it(tiny_run, tmp_path):
    models = tmp_path / "models"
    settings = ["training.epochs=1", "export.similarity=true", "export.retrieval=false"]
    export(*tiny_run, models, config=parse_config(CONFIG_TEXT, "here", settings))
    stored = read_candidates(models, 1).set_index("candidate_id")["embedding"]
    tower = LoadedQueryTower(models / "query_tower" / "1")
    query = tower({"user_id": tf.constant([query_id(3)])}).numpy()[0]
    asked = [candidate_id(1), candidate_id(4)]

    expected = [query @ stored[name] for name in asked]
    np.testing.assert_allclose(score(models, 1, asked), expected, atol=1e-6)
    for name in ("models.config", "models.stock.config"):
        assert "similarity" in {model.name for model in read_models_config(models / name)}
    described = {one.name: one for one in signatures(models, "similarity")}
    assert all(tensor.meaning for one in described.values() for tensor in one.inputs)
    assert described["score"].python == 'client.score({"query_id": "42"}, ["42"])'

    refresh(models, [pa.table({"candidate_id": [*asked[1:], "new"]})])

    of_removed, of_kept, of_new = score(models, 2, [*asked, "new"])
    assert of_removed == UNKNOWN_CANDIDATE_SCORE
    assert of_kept == pytest.approx(expected[1], abs=1e-6)
    assert -1.0 <= of_new <= 1.0

"""What is on disk after an export, and that TensorFlow's own loader answers from it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tests.cc_loader import predict
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.index import CandidateIndex, ExactIndex, IndexParameters, ScannIndex
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.publishing.saved_model_writer import custom_ops, graph_ops, save
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import Retriever, ServedTower
from tfrs_twotower.schema.features import History, Id, Number, Timestamp, Vector
from tfrs_twotower.schema.rules import Rules
from tfrs_twotower.schema.scann_ops import scann_op_library

NUM_CANDIDATES = 300
SCANN_OPS = ["Scann>ScannSearchBatched", "Scann>TensorsToScann"]
FEATURES = {
    "user_id": Id(),
    "history": History(length=3),
    "age": Number(),
    "taste": Vector(dimension=2),
    "moment": Timestamp(parts=("hour",)),
}
QUERIES: dict[str, Any] = {
    "user_id": ["ann", "nobody", ""],
    "history": [["i1", ""], ["", ""], ["i2", "i3"]],
    "age": [31.0, 5.0, 80.0],
    "taste": [[0.5, -1.0], [0.0, 0.0], [2.0, 1.0]],
    "moment": [1_700_000_000, 0, 1_600_000_000],
}
OPTIONS = {
    "k": [3, 8, 5],
    "exclude_ids": [["c1", "c2"], ["", ""], ["c3", "unknown"]],
    "allow_ids": [[""], [""], [""]],
    "filter_colour_any": [["red", ""], ["red", "blue"], ["", ""]],
    "filter_colour_none": [[""], [""], ["blue"]],
    "half_life_s": [0.0, 500.0, 0.0],
    "now_s": [0, 2_000, 0],
    "max_per_category": [0, 4, 0],
    "mmr_lambda": [1.0, 1.0, 0.5],
    "min_score": [-1.0, -1.0, -0.5],
}
RULES = Rules(filters=["colour"], category="colour", timestamp="born")
ATTRIBUTES = pa.table(
    {
        "colour": ["red", "blue", "green"] * (NUM_CANDIDATES // 3),
        "born": list(range(1, NUM_CANDIDATES + 1)),
    }
)


class SmallTower(keras.Model):
    """Reads every feature; dropout must be off when it is served."""

    def __init__(self) -> None:
        super().__init__()
        self._users = keras.layers.Embedding(9, 4, embeddings_initializer=_normal(1))
        self._candidates = keras.layers.Embedding(9, 4, embeddings_initializer=_normal(2))
        self._hours = keras.layers.Embedding(25, 4, embeddings_initializer=_normal(3))
        self._dense = keras.layers.Dense(8, kernel_initializer=_normal(4))
        self._dropout = keras.layers.Dropout(0.5)

    def call(self, encoded: dict[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        vectors = [
            self._users(encoded["user_id"]),
            tf.reduce_mean(self._candidates(encoded["history"]), axis=1),
            self._hours(encoded["moment"][:, 0]),
            encoded["age"][:, tf.newaxis] / 100,
            encoded["taste"],
        ]
        hidden = self._dropout(self._dense(tf.concat(vectors, axis=1)), training=training)
        return tf.math.l2_normalize(hidden, axis=-1)


def _normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(seed=seed)


class Exported(NamedTuple):
    folder: Path
    retriever: Retriever
    manifest: dict[str, Any]


class Models(NamedTuple):
    query_tower: ServedTower
    query_tower_folder: Path
    retrieval: Exported
    retrieval_exact: Exported


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("export")
    (folder / "user_id.txt").write_text("ann\nbob\n")
    (folder / "item_id.txt").write_text("i1\ni2\ni3\n")
    tower = ServedTower(Encoder(FEATURES, folder, ("item_id", Id())), SmallTower())
    rows = np.random.default_rng(0).normal(size=(NUM_CANDIDATES, 8))
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    save(
        tower,
        tower.signatures("query_embedding"),
        folder / "query_tower",
        model_name="query_tower",
        facts={},
    )

    def export(name: str, index: CandidateIndex) -> Exported:
        ids = sorted(f"c{number}" for number in range(NUM_CANDIDATES))
        attributes = CandidateAttributes(RULES, ATTRIBUTES)
        retriever = Retriever(tower, index, ids, default_k=10, max_k=100, attributes=attributes)
        # Published as the command does it: written beside, then renamed.
        manifest = save(
            retriever,
            retriever.signatures(),
            folder / f"{name}.tmp",
            model_name=name,
            facts={"schema_fingerprint": "0123", "index": index.description},
            searcher_bytes=index.searcher_bytes,
        )
        return Exported((folder / f"{name}.tmp").rename(folder / name), retriever, manifest)

    tree = IndexParameters.for_corpus(NUM_CANDIDATES)
    return Models(
        tower,
        folder / "query_tower",
        export("retrieval", ScannIndex(embeddings, tree)),
        export("retrieval_exact", ExactIndex(embeddings)),
    )


@pytest.fixture(params=["retrieval", "retrieval_exact"])
def exported(request: pytest.FixtureRequest, models: Models) -> Exported:
    return getattr(models, request.param)


def signature_def(folder: Path, name: str) -> Any:
    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return saved_model.meta_graphs[0].signature_def[name]


def call(exported: Exported, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The Python call, before anything was written."""
    chosen = exported.retriever.signatures()[signature]
    tensors = {
        name: tf.constant(value, chosen.inputs[name].dtype) for name, value in inputs.items()
    }
    answer = tf.function(chosen.function)({**chosen.defaults, **tensors})
    return {name: value.numpy() for name, value in answer.items()}


def test_the_optional_inputs_of_recommend_have_defaults_in_the_written_proto(exported):
    defaults = signature_def(exported.folder, "recommend").defaults

    values = {name: tf.make_ndarray(proto).tolist() for name, proto in defaults.items()}
    assert values == {
        "k": [10],
        "exclude_ids": [[b""]],
        "allow_ids": [[b""]],
        "filter_colour_any": [[b""]],
        "filter_colour_none": [[b""]],
        "half_life_s": [0.0],
        "now_s": [0],
        "max_per_category": [0],
        "mmr_lambda": [1.0],
        "min_score": [float(np.finfo(np.float32).min)],
    }


def test_a_written_model_refuses_lists_that_a_server_may_have_filled_up(models):
    loaded = tf.saved_model.load(str(models.retrieval_exact.folder))
    specs = models.query_tower.inputs
    inputs = {name: tf.constant(QUERIES[name], spec.dtype) for name, spec in specs.items()}
    # ["i1"] beside ["i2", "i3", "i4"], as TF Serving merges them.
    filled = [["i1", "i1", "i1"], ["", "", ""], ["i2", "i3", "i4"]]

    answer = loaded.signatures["serving_default"](**inputs)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"may have filled it up.*history"):
        loaded.signatures["serving_default"](**{**inputs, "history": tf.constant(filled)})

    assert answer["scores"].shape[0] == 3


@pytest.mark.parametrize("signature", ["serving_default", "score"])
def test_the_plain_signatures_want_every_input(exported, signature):
    assert not signature_def(exported.folder, signature).defaults


def test_signatures_have_the_names_types_and_batch_dimensions_of_the_contract(exported):
    recommend = signature_def(exported.folder, "recommend")

    def described(infos: Any) -> dict[str, tuple[str, list[int]]]:
        return {
            name: (tf.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim])
            for name, info in infos.items()
        }

    assert described(recommend.inputs) == {
        "user_id": ("string", [-1]),
        "history": ("string", [-1, -1]),
        "age": ("float32", [-1]),
        "taste": ("float32", [-1, 2]),
        "moment": ("int64", [-1]),
        "k": ("int32", [-1]),
        "exclude_ids": ("string", [-1, -1]),
        "allow_ids": ("string", [-1, -1]),
        "filter_colour_any": ("string", [-1, -1]),
        "filter_colour_none": ("string", [-1, -1]),
        "half_life_s": ("float32", [-1]),
        "now_s": ("int64", [-1]),
        "max_per_category": ("int32", [-1]),
        "mmr_lambda": ("float32", [-1]),
        "min_score": ("float32", [-1]),
    }
    assert described(recommend.outputs) == {
        "candidate_ids": ("string", [-1, -1]),
        "scores": ("float32", [-1, -1]),
        "valid_count": ("int32", [-1]),
        "pool_size": ("int32", [-1]),
    }
    assert described(signature_def(exported.folder, "serving_default").outputs) == {
        "candidate_ids": ("string", [-1, -1]),
        "scores": ("float32", [-1, -1]),
        "valid_count": ("int32", [-1]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signature", "options"),
    [
        pytest.param("serving_default", {}, id="serving_default"),
        pytest.param("recommend", OPTIONS, id="recommend"),
        pytest.param("score", {"candidate_ids": [["c7", "unknown"]] * 3}, id="score"),
    ],
)
def test_the_cc_loader_answers_as_the_python_call_did(exported, signature, options):
    is_scann = exported.manifest["custom_ops"] != []
    inputs = {**QUERIES, **options}

    answer = predict(exported.folder, signature, inputs, scann_op_library() if is_scann else None)

    expected = call(exported, signature, inputs)
    assert answer.keys() == expected.keys()
    np.testing.assert_allclose(answer.pop("scores"), expected.pop("scores"), atol=1e-5)
    for name, value in expected.items():
        np.testing.assert_array_equal(answer[name], value)


def test_a_server_without_scann_is_told_which_op_it_lacks(models):
    with pytest.raises(RuntimeError, match="Scann>"):
        predict(models.retrieval.folder, "serving_default", QUERIES)


def test_the_query_tower_gives_the_same_vectors_when_saved(models):
    answer = predict(models.query_tower_folder, "serving_default", QUERIES)

    specs = models.query_tower.inputs
    raw = {name: tf.constant(value, specs[name].dtype) for name, value in QUERIES.items()}
    np.testing.assert_allclose(answer["query_embedding"], models.query_tower(raw), atol=1e-6)


def test_only_the_scann_model_has_custom_ops(models):
    assert custom_ops(graph_ops(models.retrieval.folder)) == SCANN_OPS
    assert custom_ops(graph_ops(models.retrieval_exact.folder)) == []
    assert custom_ops(graph_ops(models.query_tower_folder)) == []


def test_the_manifest_says_what_a_server_must_have(models):
    written = json.loads((models.retrieval.folder / "assets.extra/manifest.json").read_text())

    assert written == models.retrieval.manifest
    assert written["custom_ops"] == SCANN_OPS
    assert written["minimum_server"] == {
        "tensorflow_serving": "2.20",
        "op_libraries": ["scann 1.4.2"],
    }
    assert written["schema_fingerprint"] == "0123"
    assert written["index"]["method"] == "tree_ah"
    assert models.retrieval_exact.manifest["minimum_server"]["op_libraries"] == []


def test_memory_is_at_least_the_embeddings_and_with_scann_twice_that(models):
    embeddings_bytes = NUM_CANDIDATES * 8 * 4

    assert embeddings_bytes < models.retrieval_exact.manifest["memory_bytes"]
    assert 2 * embeddings_bytes < models.retrieval.manifest["memory_bytes"]


@pytest.mark.slow
def test_warm_up_requests_are_answered_by_the_signatures_they_name(exported):
    path = exported.folder / "assets.extra/tf_serving_warmup_requests"
    signatures = tf.saved_model.load(str(exported.folder)).signatures

    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(path))
    ]

    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.signature_name for request in requests} == set(signatures)
    assert {request.model_spec.name for request in requests} == {exported.manifest["model"]}
    for request in requests:
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        answer = signatures[request.model_spec.signature_name](
            **{name: tf.constant(value) for name, value in inputs.items()}
        )
        assert len(answer["scores"]) == len(inputs["user_id"])


@pytest.mark.slow
def test_scann_models_loaded_side_by_side_answer_for_themselves(models, tmp_path):
    embeddings = np.eye(NUM_CANDIDATES, 8, dtype=np.float32)
    ids = sorted(f"d{number}" for number in range(NUM_CANDIDATES))
    index = ScannIndex(embeddings, IndexParameters.for_corpus(len(embeddings)))
    other = Retriever(models.query_tower, index, ids, default_k=10, max_k=100)
    save(other, other.signatures(), tmp_path / "other", model_name="retrieval", facts={})

    loaded = [
        tf.saved_model.load(str(folder)).signatures["serving_default"]
        for folder in (models.retrieval.folder, tmp_path / "other")
    ]

    specs = models.query_tower.inputs
    raw = {name: tf.constant(value, specs[name].dtype) for name, value in QUERIES.items()}
    first, second, again = (loaded[i](**raw)["candidate_ids"].numpy() for i in (0, 1, 0))
    np.testing.assert_array_equal(
        first, call(models.retrieval, "serving_default", QUERIES)["candidate_ids"]
    )
    np.testing.assert_array_equal(again, first)
    assert all(name.startswith(b"d") for name in second.ravel())


@pytest.mark.slow
def test_the_writer_keeps_grpc_out():
    code = (
        "import sys, tfrs_twotower.publishing.saved_model_writer; sys.exit('grpc' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Every context mode with every encoder of histories: trained = saved = served, or refused."""

import contextlib
import functools
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import RetrievalClient
from serving.model_config import read_models_config
from serving.model_server import ModelServer, ServerOptions
from tfrs_twotower import api
from tfrs_twotower.evaluation.inputs import rank_model
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.keras import tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UserError, parse_config

NUM_USERS, NUM_ITEMS, EVENTS_OF_USER = 24, 18, 7
HISTORY = 4
START_S = 1_700_000_000
MODES = {
    "user_tower": "{context_mode: user_tower}",
    "trilinear": "{context_mode: trilinear}",
    "linear_scoring": "{context_mode: scoring_layer}",
    "scoring_network": "{context_mode: scoring_layer, scoring_hidden_units: [12, 5]}",
}
ENCODERS = {
    "mean": "{encoder: mean}",
    "gru": "{encoder: gru, embedding_dim: 6, dropout: 0.1}",
    "attention": "{encoder: attention, blocks: 1, heads: 2, dropout: 0.1}",
}
# Each mode with the encoder that has the most to lose, and each encoder with one mode.
PAIRS = [
    pytest.param(mode, encoder, id=f"{mode}-{encoder}")
    for mode in MODES
    for encoder in ENCODERS
    if encoder == "attention" or mode == "trilinear"
]


def item_of(user: int, event: int) -> int:
    """A walk that meets no item twice (5 and 18 have no common divisor)."""
    return (3 * user + 5 * event) % NUM_ITEMS


def moment_of(user: int, event: int) -> int:
    return START_S + 20_000 * event + 977 * user


def has_index(mode: str, encoder: str) -> bool:
    """Whether `retrieval` is exported: not by a scoring layer, and once a mode is enough."""
    return encoder == "attention" and "scoring_layer" not in MODES[mode]


def config_text(mode: str, encoder: str) -> str:
    history = ENCODERS[encoder].removeprefix("{")
    scores_by_layer = "scoring_layer" in MODES[mode]
    return f"""\
columns: {{query_id: user, candidate_id: item, timestamp: at}}
split: {{by: leave_last_out}}
features:
  query:
    user: {{kind: id}}
    history: {{kind: history, length: {HISTORY}, missing: indicator, {history}
  context: {{clock: {{kind: timestamp}}, on_phone: {{kind: boolean}}}}
  candidate: {{item: {{kind: id}}, genre: {{kind: categorical}}}}
towers: {{embedding_dim: 8, candidate: {{hidden_units: [9]}}, {MODES[mode].removeprefix("{")}
loss: {{kind: {"bce" if scores_by_layer else "softmax"}}}
training: {{epochs: 2, batch_size: 24, learning_rate: 0.02}}
export: {{default_k: 5, retrieval: {str(has_index(mode, encoder)).lower()}}}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Records know nothing of modes and encoders: all share one folder."""
    root = tmp_path_factory.mktemp("data")
    dataset = root / "dataset"
    dataset.mkdir()
    pd.DataFrame(
        [
            {
                "user": f"u{user:02}",
                "item": f"i{item_of(user, event):02}",
                "at": moment_of(user, event),
                "on_phone": [True, False, None][(user + event) % 3],
            }
            for user in range(NUM_USERS)
            for event in range(EVENTS_OF_USER)
        ]
    ).to_parquet(dataset / "interactions.parquet", index=False)
    pd.DataFrame(
        {
            "item": [f"i{item:02}" for item in range(NUM_ITEMS)],
            "genre": [["noir", "farce", None][item % 3] for item in range(NUM_ITEMS)],
        }
    ).to_parquet(dataset / "candidates.parquet", index=False)
    api.prepare(parse_config(config_text("user_tower", "mean"), "test"), dataset, root / "prepared")
    return root / "prepared"


def query_at_last_event(user: int) -> dict[str, object]:
    last = EVENTS_OF_USER - 1
    return {
        "user": f"u{user:02}",
        "history": [f"i{item_of(user, event):02}" for event in range(last - HISTORY, last)],
        "clock": moment_of(user, last),
        "on_phone": [True, False, None][(user + last) % 3],
    }


class Chain:
    """A trained, exported and served model."""

    def __init__(self, root: Path, prepared: Path, mode: str, encoder: str) -> None:
        config = parse_config(config_text(mode, encoder), "test")
        api.train(config, prepared, root / "run", progress=False)
        self.exported = api.export(root / "run", prepared, root / "models")
        self.models = root / "models"
        self.run = load_run(root / "run", prepared)
        self.corpus = self.run.data.corpus()
        self.evaluation_set = load_evaluation_set(self.run.data, "test", exclude_known=False)
        ids = self.run.data.query_ids()[self.evaluation_set.query_rows]
        self.queries = [query_at_last_event(int(name[1:])) for name in ids]


@pytest.fixture(scope="module")
def chain_of(tmp_path_factory, prepared):
    """The chain of a mode and an encoder, made once."""

    @functools.cache
    def made(mode: str, encoder: str) -> Chain:
        return Chain(tmp_path_factory.mktemp(mode), prepared, mode, encoder)

    return made


@contextlib.contextmanager
def served(chain):
    models = read_models_config(chain.models / "models.config")
    with ModelServer(models, rest_port=None, options=ServerOptions(optimize=False)) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "encoder"), PAIRS)
def test_what_is_served_is_what_was_trained(chain_of, mode, encoder):
    chain = chain_of(mode, encoder)
    ranking = rank_model(chain.run.model, chain.corpus, chain.evaluation_set, k=5)
    names = [name for name in ("retrieval_exact", "retrieval") if name in chain.exported.manifests]

    with served(chain) as target:
        with RetrievalClient(target, model="retrieval_exact", timeout_s=60) as client:
            embeddings = client.embed(chain.queries)
        answers = {}
        for name in names:
            with RetrievalClient(target, model=name, timeout_s=60) as client:
                answers[name] = client.recommend(chain.queries, k=5)

    trained = embed(chain.run.model.query_tower, chain.evaluation_set.features)
    np.testing.assert_allclose(embeddings, trained, atol=1e-5)
    expected = chain.corpus.candidate_ids[ranking.top_rows].tolist()
    for found in answers.values():
        assert [answer.candidate_ids for answer in found] == expected
    assert ("retrieval" in names) == has_index(mode, encoder)


@pytest.fixture(scope="module")
def trilinear(chain_of):
    return chain_of("trilinear", "attention")


@pytest.fixture(scope="module")
def scored(chain_of):
    return chain_of("scoring_network", "attention")


@pytest.fixture(scope="module")
def target(trilinear):
    with served(trilinear) as target:
        yield target


@pytest.fixture(scope="module")
def scored_target(scored):
    with served(scored) as target:
        yield target


def predict(target: str, model: str, signature: str, inputs: dict[str, object]) -> dict:
    """The answer of any signature, as anybody's client would ask for it."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(target) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, 60.0)
    return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "model"),
    [
        ("target", "retrieval"),
        ("target", "retrieval_exact"),
        ("scored_target", "retrieval_exact"),
    ],
)
def test_a_kept_user_joined_with_the_context_scores_like_the_whole_query(request, of, model):
    target = request.getfixturevalue(of)
    query = query_at_last_event(5)
    profile = {"user": [query["user"]], "history": [query["history"]]}
    clock = np.array([query["clock"]], np.int64)
    context = {
        "clock": clock,
        "on_phone": np.array([1.0 if query["on_phone"] else 0.0], np.float32),
    }
    kept = predict(target, "query_tower", "user", profile)["user_embedding"]

    joined = predict(target, model, "recommend_joined", {"user_embedding": kept, **context})
    embedding = predict(target, "query_tower", "join", {"user_embedding": kept, **context})

    whole = predict(target, model, "recommend", {**profile, **context})
    with RetrievalClient(target, model=model, timeout_s=60) as client:
        moment = {"clock": query["clock"], "on_phone": bool(query["on_phone"])}
        [answer] = client.recommend({"user_embedding": kept[0].tolist(), **moment}, k=5)
    assert answer.candidate_ids == [name.decode() for name in whole["candidate_ids"][0, :5]]
    np.testing.assert_allclose(answer.scores, whole["scores"][0, :5], atol=1e-5)
    assert joined["candidate_ids"].tolist() == whole["candidate_ids"].tolist()
    np.testing.assert_allclose(joined["scores"], whole["scores"], atol=1e-5)
    expected = predict(target, "query_tower", "serving_default", {**profile, **context})
    np.testing.assert_allclose(embedding["query_embedding"], expected["query_embedding"], atol=1e-6)
    # Trilinear keeps a raw vector, the scoring layer reads one of length 1.
    is_unit = abs(np.linalg.norm(kept) - 1.0) < 1e-3
    assert is_unit == (of == "scored_target")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "at"), [("trilinear", "target"), ("scored", "scored_target")], ids=["trilinear", "layer"]
)
def test_users_computed_ahead_are_those_that_the_signature_gives(request, of, at, tmp_path):
    chain, target = request.getfixturevalue(of), request.getfixturevalue(at)

    count = api.user_embeddings(chain.models, tmp_path / "users")

    table = pd.read_parquet(tmp_path / "users" / "part-00000.parquet")
    assert count == len(table) == NUM_USERS
    past = [f"i{item_of(7, event):02}" for event in range(EVENTS_OF_USER - HISTORY, EVENTS_OF_USER)]
    expected = predict(target, "query_tower", "user", {"user": ["u07"], "history": [past]})
    stored = table.set_index("query_id").loc["u07", "user_embedding"]
    np.testing.assert_allclose(stored, expected["user_embedding"][0], atol=1e-6)


@pytest.mark.slow
def test_a_stored_vector_recommends_what_the_whole_query_does(scored, scored_target, tmp_path):
    """`twotower user-embeddings`, then the client: both halves by a scoring layer."""
    api.user_embeddings(scored.models, tmp_path / "users")
    table = pd.read_parquet(tmp_path / "users" / "part-00000.parquet").set_index("query_id")
    past = [f"i{item_of(7, event):02}" for event in range(EVENTS_OF_USER - HISTORY, EVENTS_OF_USER)]
    moment = {"clock": START_S + 90_000, "on_phone": True}

    with RetrievalClient(scored_target, timeout_s=60) as client:
        [whole] = client.recommend({"user": "u07", "history": past, **moment}, k=NUM_ITEMS)
        kept = table.loc["u07", "user_embedding"].tolist()
        [joined] = client.recommend({"user_embedding": kept, **moment}, k=NUM_ITEMS)

    assert joined.candidate_ids == whole.candidate_ids
    np.testing.assert_allclose(joined.scores, whole.scores, atol=1e-5)


@pytest.mark.slow
def test_users_cannot_be_computed_ahead_where_the_moment_is_read_with_them(tmp_path, chain_of):
    chain = chain_of("user_tower", "attention")

    with pytest.raises(UserError, match="reads user and context through the same layers"):
        api.user_embeddings(chain.models, tmp_path / "users")

    assert not (tmp_path / "users").exists()


@pytest.mark.slow
def test_a_click_of_somebody_unknown_changes_the_next_answer(trilinear, target):
    before = {"user": "nobody", "history": ["i03", "i11"], "clock": START_S, "on_phone": True}
    after = {**before, "history": ["i03", "i11", "i06"]}

    with RetrievalClient(target, timeout_s=60) as client:
        first, second = client.recommend([before, after], k=NUM_ITEMS)

    assert first.scores != second.scores
    assert len(set(first.candidate_ids)) == len(set(second.candidate_ids)) == NUM_ITEMS


@pytest.mark.slow
def test_a_request_without_a_context_feature_is_refused_in_a_line_that_names_it(target):
    with pytest.raises(grpc.RpcError) as refused:
        predict(
            target,
            "retrieval",
            "serving_default",
            {"user": ["u01"], "history": [["i03"]], "clock": np.array([START_S], np.int64)},
        )

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "on_phone" in refused.value.details()
    assert len(refused.value.details().splitlines()) == 1

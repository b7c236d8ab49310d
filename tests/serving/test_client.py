"""The client against a real server."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving import errors
from serving.client import UNKNOWN_CANDIDATE_SCORE, AsyncRetrievalClient, RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from tests.serving import toy_models
from tests.serving.conftest import RunningServer, free_port, is_healthy, rest, wait_until
from tests.serving.toy_models import EAST_QUERY, NORTH_QUERY
from tfrs_twotower.schema import UsageError


@pytest.fixture(scope="module")
def client(embedded):
    with RetrievalClient(embedded.target) as client:
        yield client


def test_recommend_answers_one_query(client):
    (answer,) = client.recommend(EAST_QUERY, k=2)

    assert answer.candidate_ids == ["a", "b"]
    assert answer.scores == pytest.approx([1.0, 0.8])
    assert answer.model_version == 3
    # The toy models do not tell, as those that earlier releases exported do not.
    assert answer.pool_size is None


def test_recommend_answers_several_queries_in_their_order(client):
    answers = client.recommend([NORTH_QUERY, EAST_QUERY], k=[1, 2], exclude_ids=[[], ["a"]])

    assert [answer.candidate_ids for answer in answers] == [["c"], ["b", "c"]]


def test_what_is_beyond_the_eligible_is_cut_off(client):
    (answer,) = client.recommend(EAST_QUERY, k=50, exclude_ids=["a"], allow_ids=["a", "c", "d"])

    assert answer.candidate_ids == ["c", "d"]
    assert answer.scores == pytest.approx([0.0, -1.0])


def test_an_answer_counts_what_was_excluded(client):
    of_query = {**EAST_QUERY, "exclude_ids": ["a", "a", "d", ""]}

    answers = client.recommend([of_query, EAST_QUERY], k=2)

    assert [answer.num_excluded for answer in answers] == [2, 0]
    assert answers[0].candidate_ids == ["b", "c"]
    assert client.recommend(EAST_QUERY, exclude_ids=["a"])[0].num_excluded == 1


def test_one_query_has_one_answer(client):
    assert client.recommend_one(EAST_QUERY, k=2, exclude_ids=["a"]).candidate_ids == ["b", "c"]


def test_what_a_query_does_not_name_is_not_known(client):
    named = client.recommend_one({"user_id": "north", "history": None, "age": None}, k=1)

    assert client.recommend_one({"user_id": "north"}, k=1) == named


def test_asyncio_gets_the_same_answers(client, embedded):
    async def asked():
        async with AsyncRetrievalClient(embedded.target) as other:
            answers = await asyncio.gather(
                other.recommend([NORTH_QUERY, EAST_QUERY], k=2),
                other.recommend_one(EAST_QUERY, k=1),
                other.score(EAST_QUERY, ["d", "a"]),
                other.embed(NORTH_QUERY),
                other.query_features(),
            )
            with pytest.raises(errors.InvalidRequestError, match="k must be at most 100"):
                await other.recommend(EAST_QUERY, k=101)
            return answers

    recommended, one, scores, embedding, features = asyncio.run(asked())

    assert recommended == client.recommend([NORTH_QUERY, EAST_QUERY], k=2)
    assert one == client.recommend_one(EAST_QUERY, k=1)
    assert scores == client.score(EAST_QUERY, ["d", "a"])
    np.testing.assert_array_equal(embedding, client.embed(NORTH_QUERY))
    assert features == client.query_features()


class Listener(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Takes its time for every call; notes what the caller still gives it, and what it sends."""

    def __init__(self):
        self.seconds_left, self.metadata = [], []

    def GetModelMetadata(self, request, context):
        return self._note(context, get_model_metadata_pb2.GetModelMetadataResponse())

    def Predict(self, request, context):
        return self._note(context, predict_pb2.PredictResponse())

    def _note(self, context, response):
        self.seconds_left.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))
        time.sleep(0.2)
        if isinstance(response, get_model_metadata_pb2.GetModelMetadataResponse):
            signatures = get_model_metadata_pb2.SignatureDefMap()
            signatures.signature_def["serving_default"].SetInParent()
            response.metadata["signature_def"].Pack(signatures)
        else:
            response.outputs["query_embedding"].CopyFrom(tf.make_tensor_proto([[1.0]]))
        return response


@pytest.fixture
def listener():
    listener = Listener()
    server = grpc.server(ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(listener, server)
    listener.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield listener
    server.stop(None).wait()


def test_all_that_a_call_sends_has_one_deadline(listener):
    with RetrievalClient(listener.target, timeout_s=2.0) as client:
        client.embed({})

    # The wire rounds times up: long ones to seconds, these to hundredths.
    of_metadata, of_predict = listener.seconds_left
    assert 1.0 < of_metadata < 2.1
    assert 0.0 < of_predict < 2.0 - 0.1


def test_a_call_that_has_no_time_left_for_its_question_is_late(listener):
    with (
        RetrievalClient(listener.target, timeout_s=0.3) as client,
        pytest.raises(errors.DeadlineError, match="did not answer within 0.3 s"),
    ):
        client.embed({})


def test_metadata_goes_with_every_request(listener):
    with RetrievalClient(listener.target, metadata=[("authorization", "Bearer 7")]) as client:
        client.embed({})

    assert [sent["authorization"] for sent in listener.metadata] == ["Bearer 7", "Bearer 7"]


def test_of_several_servers_one_that_stops_is_passed_over(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models, rest_port=None) as first, ModelServer(models, rest_port=None) as other:
        target = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{other.port}"
        with RetrievalClient(target, timeout_s=20.0) as client:
            client.wait_until_ready(20)
            client.recommend_one(EAST_QUERY, k=1)
            first.stop()

            for _ in range(10):
                assert client.recommend_one(EAST_QUERY, k=1).candidate_ids == ["a"]


def test_score_keeps_the_order_of_the_candidates(client):
    scores = client.score([EAST_QUERY, NORTH_QUERY], [["d", "nothing"], ["b"]])

    assert scores == [
        [pytest.approx(-1.0), UNKNOWN_CANDIDATE_SCORE],
        [pytest.approx(0.6)],
    ]


def test_score_takes_one_list_for_all_queries(client):
    assert client.score([EAST_QUERY, NORTH_QUERY], ["a", "c"]) == [
        pytest.approx([1.0, 0.0]),
        pytest.approx([0.0, 1.0]),
    ]


def test_embed_gives_a_vector_a_query(client):
    np.testing.assert_allclose(
        client.embed([NORTH_QUERY, {**EAST_QUERY, "user_id": "nobody"}]), [[0.0, 1.0], [0.6, 0.8]]
    )


def test_the_features_of_a_query_can_be_asked(client):
    assert list(client.query_features()) == ["age", "history", "user_id"]


def test_a_misspelt_feature_is_named_before_anything_is_sent(client):
    with pytest.raises(errors.InvalidRequestError, match="no input usr_id: did you mean user_id"):
        client.recommend({"usr_id": "east", "history": [], "age": 1.0})


def test_an_error_of_the_model_is_told_with_the_model(client):
    with pytest.raises(errors.InvalidRequestError, match=r"^k must be at most 100$") as caught:
        client.recommend(EAST_QUERY, k=101)

    assert caught.value.model == "retrieval"


def test_an_unknown_model_is_told(embedded):
    with (
        RetrievalClient(embedded.target, model="nothing") as client,
        pytest.raises(errors.ModelNotFoundError) as caught,
    ):
        client.recommend(EAST_QUERY)

    assert str(caught.value).startswith(f"{embedded.target} does not serve model nothing (")


def test_an_unknown_label_is_told(embedded):
    with (
        RetrievalClient(embedded.target, version_label="canary") as client,
        pytest.raises(errors.ModelNotFoundError) as caught,
    ):
        client.recommend(EAST_QUERY)

    assert "does not serve a version labelled canary of model retrieval (" in str(caught.value)


@contextlib.contextmanager
def loading_server(models_dir):
    """A server that loads no model before `go`; yields it, `go`, and the thread that starts it."""
    go = threading.Event()
    server = ModelServer([ModelConfig("retrieval", models_dir / "retrieval")])
    load = server._servables._load
    server._servables._load = lambda *version: go.wait(20) and load(*version)
    starting = threading.Thread(target=server.start)
    starting.start()
    try:
        yield server, go, starting
    finally:
        go.set()
        starting.join()
        server.stop()


def test_a_server_that_loads_says_so(models_dir):
    with loading_server(models_dir) as (server, go, starting):
        target = f"127.0.0.1:{server.port}"
        with RetrievalClient(target, timeout_s=1) as client:
            with pytest.raises(errors.UnavailableError) as caught:
                client.recommend(EAST_QUERY)
            with pytest.raises(errors.UnavailableError, match="no model server was ready within"):
                client.wait_until_ready(0.1)
            assert not is_healthy(target)
            status, answer = rest(
                RunningServer(server.port, server.rest_port),
                "/v1/models/retrieval:predict",
                {"inputs": {}},
            )
            with pytest.raises(errors.ModelNotFoundError, match="does not serve model nothing"):
                RetrievalClient(target, model="nothing").recommend(EAST_QUERY)
            with pytest.raises(errors.UnavailableError, match="no model server was ready within"):
                asyncio.run(_ready_by_asyncio(target, 0.1))
            go.set()
            asyncio.run(_ready_by_asyncio(target, 20))
            starting.join()
            client.wait_until_ready(20)

            assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]
            assert is_healthy(target)

    said = "the server is still loading retrieval: ask again"
    assert str(caught.value) == f"{target} is not ready: {said}"
    assert (status, answer) == (503, {"error": said})


async def _ready_by_asyncio(target, timeout_s):
    async with AsyncRetrievalClient(target) as client:
        await client.wait_until_ready(timeout_s)


@pytest.fixture
def exact_alone(models_dir):
    """A server without `retrieval`."""
    models = [ModelConfig("retrieval_exact", models_dir / "retrieval", labels={"stable": 3})]
    with ModelServer(models, rest_port=None) as server:
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="newest"),
        pytest.param({"version": 3}, id="version"),
        pytest.param({"version_label": "stable"}, id="label"),
    ],
)
def test_a_server_without_retrieval_is_asked_for_the_exact_model(exact_alone, asked):
    with RetrievalClient(exact_alone, **asked) as client:
        (answer,) = client.recommend(EAST_QUERY, k=2)
        (scores,) = client.score(EAST_QUERY, answer.candidate_ids)

    assert answer.candidate_ids == ["a", "b"]
    assert scores == pytest.approx(answer.scores)


def test_a_model_that_is_named_is_the_one_that_is_asked(exact_alone):
    with (
        RetrievalClient(exact_alone, model="retrieval") as client,
        pytest.raises(errors.ModelNotFoundError, match="does not serve model retrieval"),
    ):
        client.recommend(EAST_QUERY)


def test_a_server_without_either_model_is_told_of_the_first(embedded):
    with (
        RetrievalClient(embedded.target, version=4) as client,
        pytest.raises(errors.ModelNotFoundError) as caught,
    ):
        client.recommend(EAST_QUERY)

    assert caught.value.model == "retrieval"


def test_a_model_that_went_away_is_looked_for_again(models_dir):
    port = free_port()
    first, second = (
        [ModelConfig(name, models_dir / "retrieval")] for name in ("retrieval", "retrieval_exact")
    )
    with RetrievalClient(f"127.0.0.1:{port}", timeout_s=20) as client:
        with ModelServer(first, port=port, rest_port=None):
            client.recommend(EAST_QUERY, k=1)
        with ModelServer(second, port=port, rest_port=None):
            with pytest.raises(errors.ModelNotFoundError):
                client.recommend(EAST_QUERY, k=1)

            assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]


def test_a_model_without_the_signature_is_told(embedded):
    with (
        RetrievalClient(embedded.target, model="query_tower") as client,
        pytest.raises(errors.InvalidRequestError, match="has no signature recommend"),
    ):
        client.recommend(EAST_QUERY)


def test_a_version_can_be_asked_for(embedded):
    with RetrievalClient(embedded.target, version=3) as client:
        assert client.recommend(EAST_QUERY)[0].model_version == 3
    with (
        RetrievalClient(embedded.target, version=4) as client,
        pytest.raises(errors.ModelNotFoundError),
    ):
        client.recommend(EAST_QUERY)


def test_version_and_label_exclude_each_other():
    with pytest.raises(UsageError):
        RetrievalClient("127.0.0.1:1", version=1, version_label="stable")


@pytest.mark.parametrize("timeout_s", [0.5, 1.0, 10.0])
def test_a_server_that_is_not_there_is_told_with_its_address(timeout_s):
    target = f"127.0.0.1:{free_port()}"
    with (
        RetrievalClient(target, timeout_s=timeout_s) as client,
        pytest.raises(errors.UnavailableError, match=f"no model server answers at {target}"),
    ):
        client.recommend(EAST_QUERY)


def test_a_server_that_does_not_answer_is_told_with_the_deadline():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            RetrievalClient(target, timeout_s=0.2) as client,
            pytest.raises(errors.DeadlineError, match=f"{target} did not answer within 0.2 s"),
        ):
            client.recommend(EAST_QUERY)


def test_a_server_that_comes_late_is_reached_by_trying_again(models_dir):
    port = free_port()
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with RetrievalClient(f"127.0.0.1:{port}", timeout_s=20) as client:
        with pytest.raises(errors.UnavailableError):
            client.recommend(EAST_QUERY)
        with ModelServer(models, port=port, rest_port=None):
            assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]


def test_a_server_that_is_still_starting_can_be_waited_for(models_dir):
    port = free_port()
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with RetrievalClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(errors.UnavailableError, match=f"ready within 0.1 s: .*:{port}"):
            client.wait_until_ready(0.1)
        with ModelServer(models, port=port, rest_port=None):
            client.wait_until_ready(20)

            assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]


def test_a_proxy_of_the_environment_does_not_hide_this_machine(embedded, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)

    with RetrievalClient(embedded.target) as client:
        assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]


def test_refusals_are_not_tried_again():
    calls = []

    class Counting(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            calls.append(details.method)
            return continuation(details)

    server = grpc.server(ThreadPoolExecutor(1), interceptors=[Counting()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with RetrievalClient(f"127.0.0.1:{port}") as client, pytest.raises(errors.UnimplementedError):
        client.recommend(EAST_QUERY)
    server.stop(None).wait()

    assert len(calls) == 1


def test_the_client_never_shows_a_query(client):
    assert "east" not in repr(client)


def test_a_new_version_with_other_inputs_is_noticed(tmp_path):
    base_path = tmp_path / "query_tower"
    toy_models.write_query_tower(base_path, 1)
    query = {"visitor": "somebody"}

    with (
        ModelServer(
            [ModelConfig("query_tower", base_path)], options=ServerOptions(poll_s=0.02)
        ) as server,
        RetrievalClient(f"127.0.0.1:{server.port}") as client,
    ):
        client.embed(EAST_QUERY)
        toy_models.write_renamed_query_tower(base_path, 2)
        wait_until(lambda: is_refused(client, EAST_QUERY))

        np.testing.assert_allclose(client.embed(query), [[1.0, 1.0]])


def is_refused(client, query):
    try:
        client.embed(query)
    except errors.InvalidRequestError:
        return True
    return False

"""The page of metrics."""

import json
import shutil
import urllib.error
import urllib.request

import grpc
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.client import RetrievalClient
from serving.errors import InvalidRequestError
from serving.metrics import METRICS_PATH, Asked, Metrics
from serving.model_config import ModelConfig
from serving.model_server import ModelServer
from serving.request_features import FeatureCounts
from serving.request_log import Counts
from tests.serving.toy_models import EAST_QUERY, NORTH_QUERY, predict_request
from tfrs_twotower.schema import UserError

NOT_LOGGED = Counts(0, 0)


def asked(model="m", version="3", signature="recommend", entrypoint="GRPC", status="OK"):
    return Asked(model, version, signature, entrypoint, status)


def test_versions_and_signatures_are_told_apart_and_make_the_counts_of_their_model():
    metrics = Metrics()
    for version, status, times in (("3", "OK", 4), ("4", "OK", 2), ("4", "INVALID_ARGUMENT", 1)):
        for _ in range(times):
            metrics.record(asked(version=version, status=status), 20e-6)
    metrics.record(asked(version="4", signature="score", entrypoint="REST"), 20e-6)

    page = metrics.render(0, [], NOT_LOGGED)

    count = ":tensorflow:serving:request_count"
    assert f'{count}{{model_name="m",status="OK"}} 7\n' in page
    own = ':twotower:serving:request_count{model_name="m",version='
    assert f'{own}"3",signature_name="recommend",status="OK"}} 4\n' in page
    assert f'{own}"4",signature_name="recommend",status="OK"}} 2\n' in page
    assert f'{own}"4",signature_name="recommend",status="INVALID_ARGUMENT"}} 1\n' in page
    assert f'{own}"4",signature_name="score",status="OK"}} 1\n' in page
    latency = ':twotower:serving:request_latency_sum{model_name="m",version="4",'
    assert f'{latency}signature_name="recommend"}} 60\n' in page


def test_latencies_fall_into_cumulative_buckets():
    metrics = Metrics()
    # Bounds are 10, 18, 32.4, ... microseconds.
    for microseconds in (10, 11, 30):
        metrics.record(asked(), microseconds * 1e-6)

    page = metrics.render(in_flight=0, available=[], logged=NOT_LOGGED)

    labels = 'model_name="m",API="predict",entrypoint="GRPC"'
    bucket = ":tensorflow:serving:request_latency_bucket"
    assert f'{bucket}{{{labels},le="10"}} 1\n' in page
    assert f'{bucket}{{{labels},le="18"}} 2\n' in page
    assert f'{bucket}{{{labels},le="32.4"}} 3\n' in page
    assert f'{bucket}{{{labels},le="+Inf"}} 3\n' in page
    assert f":tensorflow:serving:request_latency_sum{{{labels}}} 51\n" in page
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 3\n" in page


def test_what_waits_is_told_from_what_runs():
    metrics = Metrics()
    for queued_s, run_s in ((5e-6, 20e-6), (15e-6, 20e-6)):
        metrics.record_run("m", 3, "recommend", queued_s, run_s)
    metrics.record_run("m", 4, "recommend", 0.0, 1.0)

    page = metrics.render(0, [], NOT_LOGGED)

    labels = 'model_name="m",version="3",signature_name="recommend"'
    queue, run = ":twotower:serving:queue_latency", ":twotower:serving:run_latency"
    assert f'{queue}_bucket{{{labels},le="10"}} 1\n' in page
    assert f'{queue}_bucket{{{labels},le="18"}} 2\n' in page
    assert f"{queue}_sum{{{labels}}} 20\n" in page
    assert f"{run}_sum{{{labels}}} 40\n" in page
    assert f"{run}_count{{{labels}}} 2\n" in page
    assert f"{run}_sum{{{labels.replace('3', '4')}}} 1000000\n" in page


def test_features_are_counted_by_version():
    metrics = Metrics()
    metrics.record_features("m", 3, {"user": FeatureCounts(2, 1, known=1, unknown=1)})
    metrics.record_features("m", 3, {"user": FeatureCounts(1, 0, known=1)})
    metrics.record_features("m", 4, {"age": FeatureCounts(0, 1)})

    page = metrics.render(0, [], NOT_LOGGED)

    queries, tokens = ":twotower:serving:feature_queries", ":twotower:serving:feature_tokens"
    user = 'model_name="m",version="3",feature="user",state='
    assert f'{queries}{{{user}"given"}} 3\n' in page
    assert f'{queries}{{{user}"missing"}} 1\n' in page
    assert f'{tokens}{{{user}"known"}} 2\n' in page
    assert f'{tokens}{{{user}"unknown"}} 1\n' in page
    age = 'model_name="m",version="4",feature="age",state='
    assert f'{queries}{{{age}"missing"}} 1\n' in page
    assert f"# TYPE {queries} counter\n" in page


def test_a_model_name_cannot_break_the_page():
    metrics = Metrics()
    metrics.record(asked(model='a"\n\\'), 0.0)

    assert '{model_name="a\\"\\n\\\\",status="OK"} 1' in metrics.render(0, [], NOT_LOGGED)


def test_a_server_counts_what_is_missing_and_unknown(models_dir, tmp_path):
    shutil.copytree(models_dir / "retrieval", tmp_path / "retrieval")
    version = tmp_path / "retrieval" / "3"
    (version / "assets.extra").mkdir(exist_ok=True)
    (version / "assets").mkdir(exist_ok=True)
    (version / "assets" / "user_id.txt").write_text("east\nnorth\n")
    features = {"user_id": "user_id.txt", "age": None}
    (version / "assets.extra" / "manifest.json").write_text(json.dumps({"features": features}))

    with ModelServer([ModelConfig("retrieval", tmp_path / "retrieval")]) as server:
        with RetrievalClient(f"127.0.0.1:{server.port}") as client:
            client.recommend([EAST_QUERY, {**NORTH_QUERY, "user_id": "nobody"}], k=2)
        url = f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            page = reply.read().decode()

    of = 'model_name="retrieval",version="3",feature='
    assert f':twotower:serving:feature_tokens{{{of}"user_id",state="known"}} 1\n' in page
    assert f':twotower:serving:feature_tokens{{{of}"user_id",state="unknown"}} 1\n' in page
    assert f':twotower:serving:feature_queries{{{of}"age",state="missing"}} 1\n' in page
    assert 'feature="history"' not in page
    assert 'feature="k"' not in page


def test_metrics_have_a_port_of_their_own_where_asked(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]

    def status(port, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    with ModelServer(models, metrics_port=0) as server:
        assert status(server.metrics_port, METRICS_PATH) == 200
        assert status(server.metrics_port, "/v1/models/retrieval") == 404
        assert status(server.rest_port, METRICS_PATH) == 404
        assert status(server.rest_port, "/v1/models/retrieval") == 200
        with pytest.raises(UserError, match="Choose another --metrics_port"):
            ModelServer(models, metrics_port=server.metrics_port)
    with pytest.raises(urllib.error.URLError):
        status(server.metrics_port, METRICS_PATH)


def test_a_server_counts_what_it_answers(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models) as server:
        target = f"127.0.0.1:{server.port}"
        with RetrievalClient(target) as client:
            client.recommend(EAST_QUERY)
            client.recommend([EAST_QUERY, EAST_QUERY])
            with pytest.raises(InvalidRequestError):
                client.recommend(EAST_QUERY, k=101)
        with grpc.insecure_channel(target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.Predict(predict_request("made-up"), timeout=10)
        url = f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            content_type, page = reply.headers["Content-Type"], reply.read().decode()

    assert content_type.startswith("text/plain")
    count = ':tensorflow:serving:request_count{model_name="retrieval",status='
    assert f'{count}"OK"}} 2\n' in page
    assert f'{count}"INVALID_ARGUMENT"}} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"} 1\n' in page
    assert "made-up" not in page
    version = ':twotower:serving:request_count{model_name="retrieval",version="3",'
    assert f'{version}signature_name="recommend",status="OK"}} 2\n' in page
    assert ':twotower:serving:available_version{model_name="retrieval",version="3"} 1' in page
    # Two answers, and a refusal of the model itself.
    run = ':twotower:serving:run_latency_count{model_name="retrieval",version="3",'
    assert f'{run}signature_name="recommend"}} 3\n' in page
    assert ":twotower:serving:requests_in_flight 0" in page

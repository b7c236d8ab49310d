"""An exported model answers in TF Serving itself as in the embedded server."""

import numpy as np
import pytest

from serving.client import RetrievalClient
from serving.model_config import read_models_config
from serving.model_server import ModelServer
from tests import tiny_world
from tests.serving.conftest import (
    TF_MODEL_SERVER,
    RunningServer,
    rest,
    running_model_server,
    takes_more_ops,
)
from tfrs_twotower import api

pytestmark = pytest.mark.tf_serving

USERS = [tiny_world.query_id(0), tiny_world.query_id(7), "nobody"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Both, on one export; a server that takes no operations gets the config for stock images."""
    if not TF_MODEL_SERVER:
        pytest.skip("TF_MODEL_SERVER names no tensorflow_model_server")
    folder = tmp_path_factory.mktemp("exported")
    config = tiny_world.config(epochs=1)
    prepared = tiny_world.write_prepared(folder / "prepared", config, held_out="validation")
    api.train(config, prepared, folder / "run", progress=False)
    models = api.export(folder / "run", prepared, folder / "models").folder
    config_path = models / ("models.config" if takes_more_ops() else "models.stock.config")
    with (
        ModelServer(read_models_config(config_path)) as embedded,
        running_model_server(config_path) as real,
    ):
        yield RunningServer(embedded.port, embedded.rest_port), real


@pytest.fixture(params=["retrieval", "retrieval_exact"])
def model(request):
    if request.param == "retrieval" and TF_MODEL_SERVER and not takes_more_ops():
        pytest.skip("this tensorflow_model_server is linked whole: it cannot take ScaNN's ops")
    return request.param


def test_grpc_answers_are_the_same(servers, model):
    queries = [{"user_id": user} for user in USERS]
    answers = []
    for server in servers:
        with RetrievalClient(server.target, model=model, timeout_s=30) as client:
            exclude_ids = client.recommend(queries[0], k=2)[0].candidate_ids
            answers.append(client.recommend(queries, k=5, exclude_ids=exclude_ids))

    for embedded, real in zip(*answers, strict=True):
        assert len(real.candidate_ids) == 5
        assert real.candidate_ids == embedded.candidate_ids
        np.testing.assert_allclose(real.scores, embedded.scores, atol=1e-6)


def test_rest_answers_are_the_same(servers, model):
    document = {"inputs": {"user_id": USERS}}

    (code, embedded), (real_code, real) = (
        rest(server, f"/v1/models/{model}:predict", document) for server in servers
    )

    assert (code, real_code) == (200, 200)
    embedded, real = embedded["outputs"], real["outputs"]
    assert real["candidate_ids"] == embedded["candidate_ids"]
    assert real["valid_count"] == embedded["valid_count"] == [10] * len(USERS)
    np.testing.assert_allclose(real["scores"], embedded["scores"], atol=1e-6)

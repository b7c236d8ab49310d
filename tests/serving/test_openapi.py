"""What the OpenAPI document says of the REST API is what the server does."""

import urllib.request
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving import rest as rest_module
from serving.errors import HTTP_STATUS
from tests.serving.conftest import rest

DOCUMENT = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "reference" / "openapi.yaml").read_text(encoding="utf-8")
)
PATHS = {"model": "retrieval", "version": "3", "label": "stable"}
QUERY = {"user_id": ["east"], "history": [["", "a"]], "age": [3.0]}


def resolved(node):
    """Follows the reference that a node may be."""
    while "$ref" in node:
        names = node["$ref"].removeprefix("#/").split("/")
        node = DOCUMENT
        for name in names:
            node = node[name]
    return node


def is_valid(schema, value):
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]}).is_valid(value)


def schema_of_answer(path, method, status):
    answer = resolved(DOCUMENT["paths"][path][method]["responses"][str(status)])
    return answer["content"]["application/json"]["schema"]


def test_the_document_is_openapi():
    validate(DOCUMENT)


def test_every_path_is_answered_by_the_server():
    predicting, asking = rest_module._PREDICT_PATH, rest_module._MODEL_PATH
    for path, item in DOCUMENT["paths"].items():
        filled = path.format(**PATHS)
        if "post" in item:
            assert predicting.fullmatch(filled), path
        else:
            others = (rest_module.METRICS_PATH, rest_module.READY_PATH)
            assert asking.fullmatch(filled) or filled in others, path


@pytest.mark.parametrize("example", ["columns", "rows"])
def test_the_example_requests_are_of_the_schema(example):
    content = DOCUMENT["components"]["requestBodies"]["Predict"]["content"]["application/json"]

    assert is_valid(content["schema"], content["examples"][example]["value"])


def test_a_request_names_inputs_or_instances():
    schema = DOCUMENT["components"]["schemas"]["PredictRequest"]

    assert not is_valid(schema, {"signature_name": "recommend"})
    assert not is_valid(schema, {"inputs": {}, "instances": [1]})


@pytest.mark.parametrize(
    ("path", "document", "status"),
    [
        ("/v1/models/{model}:predict", {"inputs": QUERY}, 200),
        (
            "/v1/models/{model}:predict",
            {"instances": [{"user_id": "east", "history": [""], "age": 3.0}]},
            200,
        ),
        ("/v1/models/{model}:predict", {"inputs": {"unknown": [1]}}, 400),
        ("/v1/models/{model}:predict", {}, 400),
        ("/v1/models/{model}/versions/{version}:predict", {"inputs": QUERY}, 200),
        ("/v1/models/{model}/labels/{label}:predict", {"inputs": QUERY}, 400),
        ("/v1/models/{model}", None, 200),
        ("/v1/models/{model}/versions/{version}", None, 200),
        ("/v1/models/{model}/metadata", None, 200),
    ],
)
def test_answers_are_of_the_schema(embedded, path, document, status):
    got, answer = rest(embedded, path.format(**PATHS), document)

    assert got == status, answer
    method = "get" if document is None else "post"
    assert is_valid(schema_of_answer(path, method, status), answer), answer


def test_a_model_that_is_not_there_is_an_error_of_the_schema(embedded):
    status, answer = rest(embedded, "/v1/models/other")

    assert status == 404
    assert is_valid(schema_of_answer("/v1/models/{model}", "get", 404), answer)


def test_the_states_of_a_version_are_those_of_tf_serving():
    versions = DOCUMENT["components"]["schemas"]["StatusResponse"]["properties"]
    named = versions["model_version_status"]["items"]["properties"]["state"]["enum"]

    assert named == ModelVersionStatus.State.keys()


def test_the_statuses_are_those_of_the_errors():
    predicted = DOCUMENT["paths"]["/v1/models/{model}:predict"]["post"]["responses"]

    assert {int(status) for status in predicted} >= {200, 400, 404, 429, 503, 504}
    assert {int(status) for status in predicted} <= {200, 401, 413, *HTTP_STATUS.values()}


def test_metrics_are_text(embedded):
    url = f"http://127.0.0.1:{embedded.rest_port}{rest_module.METRICS_PATH}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        assert reply.headers.get_content_type() == "text/plain"

"""The reference of an export says what its graphs were written with."""

import http.client
import json

import pytest

from serving.client import RetrievalClient
from serving.model_config import ModelConfig
from serving.model_server import ModelServer, ServerOptions
from tfrs_twotower.cli import main
from tfrs_twotower.publishing.signature_reference import as_markdown, signatures
from tfrs_twotower.schema import UserError


@pytest.fixture(scope="module")
def found(exported_once):
    return {(one.model, one.name): one for one in signatures(exported_once)}


def test_every_signature_of_every_model_is_there(found):
    asked = ("serving_default", "recommend", "score")
    assert set(found) == {
        *(("retrieval", name) for name in asked),
        *(("retrieval_exact", name) for name in asked),
        ("query_tower", "serving_default"),
        ("candidate_tower", "serving_default"),
    }


def test_inputs_are_told_with_type_meaning_and_default(found):
    inputs = {tensor.name: tensor for tensor in found["retrieval", "recommend"].inputs}

    assert list(inputs)[0] == "user_id"
    assert not inputs["user_id"].is_optional
    assert inputs["user_id"].meaning == 'an id; "": not known'
    k = inputs["k"]
    assert (k.dtype, k.shape, k.default) == ("int32", "[batch]", 10)
    assert k.meaning == "how many candidates, 1 to 1000"
    assert (inputs["exclude_ids"].shape, inputs["exclude_ids"].default) == ("[batch, n]", [""])


def test_every_input_and_output_has_a_meaning(found):
    unexplained = [
        (model, name, tensor.name)
        for (model, name), signature in found.items()
        for tensor in (*signature.inputs, *signature.outputs)
        if not tensor.meaning
    ]

    assert unexplained == []


@pytest.mark.slow
def test_the_examples_are_requests_that_a_server_answers(exported_once, found):
    configs = [
        ModelConfig(name, exported_once / name)
        for name in ("retrieval", "retrieval_exact", "query_tower", "candidate_tower")
    ]
    with ModelServer(configs, options=ServerOptions(optimize=False)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        for (model, name), signature in found.items():
            connection.request("POST", signature.rest_path, json.dumps(signature.rest_body))
            reply = connection.getresponse()
            assert (reply.status, reply.read() and "") == (200, ""), (model, name)
        connection.close()
        target = f"127.0.0.1:{server.port}"
        for (model, name), signature in found.items():
            if signature.python:
                with RetrievalClient(target, model=model, timeout_s=60) as client:
                    assert len(eval(signature.python, {"client": client})) == 1, (model, name)


def test_the_page_shows_each_signature_once(found):
    page = as_markdown(found.values())

    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert len(headings) == len(found)
    assert "| `k` | int32 [batch] | `10` | how many candidates, 1 to 1000 |" in page


def test_the_command_prints_one_model_for_machines(exported_once, capsys):
    code = main(["signatures", "--models", str(exported_once), "--model", "query_tower", "--json"])

    printed = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [(one["model"], one["name"]) for one in printed] == [("query_tower", "serving_default")]
    assert printed[0]["outputs"][0]["name"] == "query_embedding"


def test_an_unknown_model_is_refused_with_those_there_are(exported_once):
    with pytest.raises(UserError, match="no model towers: it has query_tower"):
        signatures(exported_once, "towers")


def test_a_damaged_graph_is_told(models):
    (models / "query_tower" / "1" / "saved_model.pb").write_bytes(b"\xff\xff")

    with pytest.raises(UserError, match="query_tower/1/saved_model.pb is missing or damaged"):
        signatures(models, "query_tower")

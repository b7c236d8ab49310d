"""What a model server answers: the same suite for the embedded server and for TF Serving itself."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import wrappers_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
)

from tests.serving.conftest import rest
from tests.serving.toy_models import EAST, FLOAT32_MIN, predict_request


def ask(server, request):
    with server.stub() as stub:
        return stub.Predict(request, timeout=10)


def arrays(response):
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def refusal(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def test_predict_answers_with_ids_and_scores(server):
    answer = arrays(ask(server, predict_request(**EAST)))

    assert answer["candidate_ids"].tolist() == [[b"a", b"b", b"c"]]
    np.testing.assert_allclose(answer["scores"], [[1.0, 0.8, 0.0]], atol=1e-6)
    assert answer["valid_count"].tolist() == [3]


def test_numbers_come_in_the_field_of_their_type(server):
    response = ask(server, predict_request(**EAST))

    assert list(response.outputs["scores"].float_val) == pytest.approx([1.0, 0.8, 0.0], abs=1e-6)
    assert list(response.outputs["valid_count"].int_val) == [3]


def test_a_batch_is_answered_row_by_row(server):
    request = predict_request(
        user_id=["north", "nobody"],
        history=[["a", "b"], ["", ""]],
        age=[1.0, float("nan")],
        k=np.array([2, 1], np.int32),
        exclude_ids=[["c"], [""]],
        allow_ids=[[""], [""]],
    )

    answer = arrays(ask(server, request))

    assert answer["candidate_ids"].tolist() == [[b"b", b"a"], [b"b", b""]]
    np.testing.assert_allclose(answer["scores"], [[0.6, 0.0], [0.96, FLOAT32_MIN]], rtol=1e-6)


def test_optional_inputs_are_filled_in(server):
    given = ask(server, predict_request(**EAST, k=np.array([1], np.int32)))
    left_out = ask(server, predict_request(**EAST))

    assert arrays(given)["candidate_ids"].shape == (1, 1)
    assert arrays(left_out)["candidate_ids"].shape == (1, 3)


def test_the_default_signature_is_used_where_none_is_named(server):
    response = ask(server, predict_request(signature="", **EAST))

    assert response.model_spec.signature_name == "serving_default"
    assert arrays(response)["candidate_ids"].tolist() == [[b"a", b"b"]]


def test_the_answer_names_model_version_and_signature(server):
    spec = ask(server, predict_request(**EAST)).model_spec

    assert (spec.name, spec.version.value, spec.signature_name) == ("retrieval", 3, "recommend")


def test_an_output_filter_leaves_the_other_outputs_out(server):
    request = predict_request(**EAST)
    request.output_filter.append("valid_count")

    assert list(ask(server, request).outputs) == ["valid_count"]


def test_an_unknown_model_is_not_found(server):
    status, details = refusal(lambda: ask(server, predict_request("nothing", **EAST)))

    assert status == grpc.StatusCode.NOT_FOUND
    assert details == "Servable not found for request: Latest(nothing)"


def test_a_version_that_is_not_served_is_not_found(server):
    status, details = refusal(lambda: ask(server, predict_request(version=9, **EAST)))

    assert status == grpc.StatusCode.NOT_FOUND
    assert details == "Servable not found for request: Specific(retrieval, 9)"


def test_a_request_without_a_model_name_is_invalid(server):
    status, details = refusal(lambda: ask(server, predict_request(model="", **EAST)))

    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert "no name" in details


def test_an_unknown_label_is_invalid(server):
    request = predict_request(**EAST)
    request.model_spec.version_label = "canary"

    status, details = refusal(lambda: ask(server, request))

    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "Unrecognized servable version label: canary"


def test_an_unknown_signature_is_a_failed_precondition(server):
    status, details = refusal(lambda: ask(server, predict_request(signature="other", **EAST)))

    assert status == grpc.StatusCode.FAILED_PRECONDITION
    assert details.startswith('Serving signature key "other" not found.')


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        pytest.param({"user_id": ["east"], "age": [1.0]}, "history", id="missing"),
        pytest.param({**EAST, "agee": [1.0]}, "agee", id="extra"),
        pytest.param({**EAST, "age": ["old"]}, "", id="wrong dtype"),
        pytest.param({**EAST, "k": np.array([101], np.int32)}, "", id="refused by the graph"),
    ],
)
def test_wrong_inputs_are_invalid(server, inputs, named):
    status, details = refusal(lambda: ask(server, predict_request(**inputs)))

    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert named in details


@pytest.mark.parametrize("name", ["embedded", "batching"])
def test_an_input_of_another_rank_is_invalid(name, request):
    """The real server does not look."""
    asked = predict_request(**{**EAST, "history": ["a"]})

    status, details = refusal(lambda: ask(request.getfixturevalue(name), asked))

    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Expects input history to be string [-1,-1]")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(["nothing"], "output tensor alias not found in signature: nothing", id="no"),
        pytest.param(["scores"] * 2, "duplicate output tensor alias: scores", id="twice"),
    ],
)
def test_a_wrong_output_filter_is_invalid(server, names, said):
    request = predict_request(**EAST)
    request.output_filter.extend(names)

    status, details = refusal(lambda: ask(server, request))

    assert status == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith(said)


def metadata_request(name="retrieval", fields=("signature_def",)):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return request


def test_metadata_tells_inputs_and_defaults(server):
    with server.stub() as stub:
        response = stub.GetModelMetadata(metadata_request(), timeout=10)

    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    recommend = signatures.signature_def["recommend"]
    assert sorted(recommend.inputs) == [
        "age",
        "allow_ids",
        "exclude_ids",
        "history",
        "k",
        "user_id",
    ]
    assert sorted(recommend.defaults) == ["allow_ids", "exclude_ids", "k"]
    assert response.model_spec.version.value == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(metadata_request("nothing"), grpc.StatusCode.NOT_FOUND, id="unknown model"),
        pytest.param(metadata_request(fields=()), grpc.StatusCode.INVALID_ARGUMENT, id="no field"),
        pytest.param(metadata_request(fields=["x"]), grpc.StatusCode.INVALID_ARGUMENT, id="field"),
        pytest.param(
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]),
            grpc.StatusCode.INVALID_ARGUMENT,
            id="no model spec",
        ),
    ],
)
def test_wrong_metadata_requests_are_refused(server, request_, status):
    with server.stub() as stub:
        got, _ = refusal(lambda: stub.GetModelMetadata(request_, timeout=10))

    assert got == status


def status_request(name, version=None):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=version))
    return request


def test_status_tells_the_versions(server):
    with server.stub(model_service_pb2_grpc.ModelServiceStub) as stub:
        response = stub.GetModelStatus(status_request("retrieval"), timeout=10)

    (status,) = response.model_version_status
    assert (status.version, status.state) == (3, status.AVAILABLE)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        pytest.param(
            status_request("nothing"), "Could not find any versions of model nothing", id="model"
        ),
        pytest.param(
            status_request("retrieval", 9),
            "Could not find version 9 of model retrieval",
            id="version",
        ),
    ],
)
def test_the_status_of_what_is_not_there_is_not_found(server, request_, said):
    with server.stub(model_service_pb2_grpc.ModelServiceStub) as stub:
        status, details = refusal(lambda: stub.GetModelStatus(request_, timeout=10))

    assert (status, details) == (grpc.StatusCode.NOT_FOUND, said)


def test_calls_that_are_not_offered_say_so(embedded):
    request = classification_pb2.ClassificationRequest()
    with embedded.stub() as stub:
        status, details = refusal(lambda: stub.Classify(request, timeout=10))

    assert status == grpc.StatusCode.UNIMPLEMENTED
    assert "Predict" in details


def test_rest_rows_are_answered_with_rows(server):
    rows = [
        {"user_id": "east", "history": ["a"], "age": 3.5},
        {"user_id": "nobody", "history": [""], "age": 0},
    ]

    status, answer = rest(server, "/v1/models/retrieval:predict", {"instances": rows})

    assert status == 200
    first, second = answer["predictions"]
    assert first["candidate_ids"] == ["a", "b"]
    assert first["valid_count"] == 2
    assert second["candidate_ids"] == ["b", "c"]
    assert second["scores"] == pytest.approx([0.96, 0.8])


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_optional_inputs_are_filled_in_over_rest(embedded, key):
    """TF Serving's REST API insists on them."""
    columns = {"user_id": ["east"], "history": [["a"]], "age": [1.0], "k": [1]}
    rows = [{name: values[0] for name, values in columns.items()}]
    document = {"signature_name": "recommend", key: columns if key == "inputs" else rows}

    status, answer = rest(embedded, "/v1/models/retrieval:predict", document)

    assert status == 200
    found = answer["outputs" if key == "inputs" else "predictions"]
    assert (found if key == "inputs" else found[0])["candidate_ids"] == (
        [["a"]] if key == "inputs" else ["a"]
    )


def test_rest_columns_are_answered_with_columns(server):
    document = {
        "signature_name": "score",
        "inputs": {
            "user_id": [{"b64": "ZWFzdA=="}],
            "history": [[""]],
            "age": [1.0],
            "candidate_ids": [["b", "nothing"]],
        },
    }

    status, answer = rest(server, "/v1/models/retrieval/versions/3:predict", document)

    assert status == 200
    assert answer["outputs"] == [[pytest.approx(0.8), pytest.approx(FLOAT32_MIN)]]


@pytest.mark.parametrize(
    ("path", "document", "status", "said"),
    [
        pytest.param("nothing:predict", {"instances": [{}]}, 404, "Servable not found", id="model"),
        pytest.param(
            "retrieval/versions/9:predict", {"instances": [{}]}, 404, "not found", id="version"
        ),
        pytest.param(
            "retrieval:predict",
            {"signature_name": "other", "instances": [{}]},
            400,
            'Serving signature name: "other" not found in signature def',
            id="signature",
        ),
        pytest.param("retrieval:predict", {"rows": []}, 400, "Missing 'inputs'", id="no rows"),
        pytest.param(
            "retrieval:predict",
            {"instances": [{"user_id": "east"}]},
            400,
            "keys must be equal to",
            id="missing input",
        ),
        pytest.param(
            "retrieval:predict",
            {"inputs": {"user_id": ["east"], "history": [["a"]]}},
            400,
            "Missing named input: age",
            id="missing column",
        ),
        pytest.param(
            "retrieval:predict",
            {"instances": [{"user_id": 1, "history": ["a"], "age": 1}]},
            400,
            "not of expected type: string",
            id="type",
        ),
        pytest.param("retrieval:guess", {"instances": []}, 400, "Malformed request", id="method"),
    ],
)
def test_wrong_rest_requests_are_refused(server, path, document, status, said):
    got, answer = rest(server, f"/v1/models/{path}", document)

    assert got == status
    assert said in answer["error"]


def test_rest_tells_the_status(server):
    status, answer = rest(server, "/v1/models/retrieval")

    assert status == 200
    assert answer["model_version_status"] == [
        {
            "version": "3",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]


def test_rest_tells_the_metadata(server):
    status, answer = rest(server, "/v1/models/retrieval/versions/3/metadata")

    assert status == 200
    assert answer["model_spec"]["version"] == "3"
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert signatures["recommend"]["inputs"]["k"]["dtype"] == "DT_INT32"


def test_rest_paths_outside_the_api_are_not_found(embedded):
    assert rest(embedded, "/etc/passwd") == (404, {"error": "Not Found"})


def test_the_embedded_server_tells_its_services_and_their_messages(embedded):
    with grpc.insecure_channel(embedded.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)

        services = set(database.get_services())
        file = database.FindFileContainingSymbol("tensorflow.serving.PredictRequest")

    assert services == {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert "PredictRequest" in [message.name for message in file.message_type]

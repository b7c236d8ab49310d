"""The client's own messages are TF Serving's on the wire, and bring no TensorFlow."""

import subprocess
import sys

import pytest
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2

from serving import wire
from tests.serving.toy_models import EAST, predict_request

THEIRS = {
    message.DESCRIPTOR.name: message.DESCRIPTOR
    for message in (
        tensor_shape_pb2.TensorShapeProto.Dim,
        tensor_shape_pb2.TensorShapeProto,
        tensor_pb2.TensorProto,
        meta_graph_pb2.TensorInfo,
        meta_graph_pb2.SignatureDef,
        get_model_metadata_pb2.SignatureDefMap,
        model_pb2.ModelSpec,
        predict_pb2.PredictRequest,
        predict_pb2.PredictResponse,
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    )
}


def form(field):
    """What decides how a field is written; an enum is an int32 there."""
    kind = field.TYPE_INT32 if field.type == field.TYPE_ENUM else field.type
    named = field.message_type.name if field.message_type else None
    oneof = field.containing_oneof.name if field.containing_oneof else None
    return field.number, kind, field.is_repeated, named, oneof


def fields(descriptor):
    return {field.name: form(field) for field in descriptor.fields}


@pytest.mark.parametrize("name", wire.MESSAGES)
def test_every_field_is_written_as_theirs(name):
    own, theirs = wire.MESSAGES[name].DESCRIPTOR, THEIRS[name]

    assert fields(own).items() <= fields(theirs).items()
    for entry in own.nested_types:
        assert fields(entry) == fields(theirs.nested_types_by_name[entry.name])


def test_a_request_of_theirs_is_read_and_written_unchanged():
    theirs = predict_request(version=7, **EAST)

    own = wire.PredictRequest.FromString(theirs.SerializeToString())

    assert own.inputs["age"].float_val or own.inputs["age"].tensor_content
    assert own.model_spec.version.value == 7
    assert predict_pb2.PredictRequest.FromString(own.SerializeToString()) == theirs


def test_the_client_imports_neither_tensorflow_nor_what_training_needs():
    heavy = "{'tensorflow', 'tensorflow_serving', 'pandas', 'pyarrow', 'pydantic', 'scann'}"
    code = f"import sys, serving.client; print({heavy} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert output.stdout.strip() == "set()"

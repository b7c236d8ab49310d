"""The messages of TF Serving's API that a client needs, without TensorFlow.

The modules of `tensorflow-serving-api` import TensorFlow, which takes seconds and gigabytes that a
web backend does not have. These messages are the same on the wire: numbers and types of the fields
are those of TensorFlow's and TF Serving's public `.proto` files. Their names have a package of
their own, so that a process can hold both.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

_PACKAGE = "twotower.wire"
_Field = descriptor_pb2.FieldDescriptorProto

# Message -> field -> its number and type: a scalar, a message of this table, or one of
# `google.protobuf`; before it "repeated", "map" (by text) or the name of a oneof. Enums are int32,
# which is the same on the wire.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Dim": {"size": (1, "int64"), "name": (2, "string")},
    "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated float"),
        "double_val": (6, "repeated double"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
        "uint32_val": (16, "repeated uint32"),
        "uint64_val": (17, "repeated uint64"),
    },
    "TensorInfo": {
        "name": (1, "encoding string"),
        "dtype": (2, "int32"),
        "tensor_shape": (3, "TensorShapeProto"),
    },
    "SignatureDef": {
        "inputs": (1, "map TensorInfo"),
        "outputs": (2, "map TensorInfo"),
        "method_name": (3, "string"),
        "defaults": (4, "map TensorProto"),
    },
    "SignatureDefMap": {"signature_def": (1, "map SignatureDef")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "version_choice google.protobuf.Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "version_choice string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, "map TensorProto"),
        "output_filter": (3, "repeated string"),
    },
    "PredictResponse": {"outputs": (1, "map TensorProto"), "model_spec": (2, "ModelSpec")},
    "GetModelMetadataRequest": {
        "model_spec": (1, "ModelSpec"),
        "metadata_field": (2, "repeated string"),
    },
    "GetModelMetadataResponse": {
        "model_spec": (1, "ModelSpec"),
        "metadata": (2, "map google.protobuf.Any"),
    },
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="twotower/wire.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[any_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        oneofs: list[str] = []
        for field, (number, typed) in fields.items():
            how, _, kind = typed.rpartition(" ")
            added = message.field.add(name=field, number=number, label=_Field.LABEL_OPTIONAL)
            if how == "map":
                entry = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
                entry.options.map_entry = True
                key = entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL)
                _set_type(key, "string")
                value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
                _set_type(value, kind)
                kind = f"{name}.{entry.name}"
            elif how not in ("", "repeated"):
                if how not in oneofs:
                    oneofs.append(how)
                    message.oneof_decl.add(name=how)
                added.oneof_index = oneofs.index(how)
            if how in ("map", "repeated"):
                added.label = _Field.LABEL_REPEATED
            _set_type(added, kind)
    return file


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    scalar = f"TYPE_{kind.upper()}"
    if scalar in _Field.Type.keys():  # noqa: SIM118  # An enum, no dict.
        field.type = _Field.Type.Value(scalar)
        return
    field.type = _Field.TYPE_MESSAGE
    field.type_name = f".{kind}" if kind.startswith("google.") else f".{_PACKAGE}.{kind}"


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, wrappers_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_file().SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_BY_NAME = _classes()
TensorProto = _BY_NAME["TensorProto"]
SignatureDef, SignatureDefMap = _BY_NAME["SignatureDef"], _BY_NAME["SignatureDefMap"]
ModelSpec = _BY_NAME["ModelSpec"]
PredictRequest, PredictResponse = _BY_NAME["PredictRequest"], _BY_NAME["PredictResponse"]
GetModelMetadataRequest = _BY_NAME["GetModelMetadataRequest"]
GetModelMetadataResponse = _BY_NAME["GetModelMetadataResponse"]
MESSAGES: Mapping[str, Any] = _BY_NAME

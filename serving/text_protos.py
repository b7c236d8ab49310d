"""TF Serving's messages that `tensorflow-serving-api` lacks, read from protobuf's text format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from tfrs_twotower.schema import UsageError

_SCALARS = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}
_MANY = "repeated "


def read_text_proto(path: str | Path, name: str, fields: Mapping[str, str], what: str) -> Any:
    """Reads a file.

    Args:
        path: In protobuf's text format, UTF-8.
        name: Of the message.
        fields: Its fields in the order of their numbers, with their types: a scalar ("bool",
            "int64", "string", perhaps "repeated") or a message of `google.protobuf`.
        what: What the file is, for messages: "batching parameters file".

    Raises:
        UsageError: If it cannot be read, or is no such message.
    """
    proto = _message_class(name, fields)()
    try:
        text_format.Parse(Path(path).read_text(encoding="utf-8"), proto)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the {what} {path}: {error}") from error
    except text_format.ParseError as error:
        raise UsageError(f"{path} is not a TF Serving {what}: {error}") from error
    return proto


def _message_class(name: str, fields: Mapping[str, str]) -> Any:
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{name}.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name=name)
    for number, (field, typed) in enumerate(fields.items(), 1):
        scalar = _SCALARS.get(typed.removeprefix(_MANY))
        message.field.add(
            name=field,
            number=number,
            label=kind.LABEL_REPEATED if typed.startswith(_MANY) else kind.LABEL_OPTIONAL,
            type=kind.TYPE_MESSAGE if scalar is None else scalar,
            type_name=f".google.protobuf.{typed}" if scalar is None else None,
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

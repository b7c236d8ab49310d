"""TF Serving's `--batching_parameters_file`, as far as the embedded server heeds it."""

import logging
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from serving.batching import BatchingOptions
from tfrs_twotower.schema import UsageError

_LOG = logging.getLogger(__name__)

# TF Serving's message; it is not among the protos that `tensorflow-serving-api` holds.
_NAME = "BatchingParameters"
_WRAPPED = {  # Its first fields, in the order of their numbers.
    "max_batch_size": "Int64Value",
    "batch_timeout_micros": "Int64Value",
    "max_enqueued_batches": "Int64Value",
    "num_batch_threads": "Int64Value",
    "thread_pool_name": "StringValue",
}
# The others have nothing to say here: no request waits for a batch to fill, and
# `--max_waiting_requests` bounds the queue.
_HEEDED = ("max_batch_size", "num_batch_threads", "pad_variable_length_inputs")


def read_batching_options(path: str | Path) -> BatchingOptions:
    """Reads a batching parameters file.

    Args:
        path: A `BatchingParameters` in protobuf's text format. What it does not say is as
            `BatchingOptions` has it; of the rest, what the server does not heed is logged.

    Raises:
        UsageError: If it cannot be read, is not such a file, or asks for less than one.
    """
    proto = _parameters_class()()
    try:
        text_format.Parse(Path(path).read_text(encoding="utf-8"), proto)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the batching parameters file {path}: {error}") from error
    except text_format.ParseError as error:
        raise UsageError(f"{path} is not a TF Serving batching parameters file: {error}") from error
    given = {field.name: value for field, value in proto.ListFields()}
    values = {name: getattr(given[name], "value", given[name]) for name in _HEEDED if name in given}
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{path}: {name} must be 1 or more, got {value}")
    if unheeded := given.keys() - set(_HEEDED):
        _LOG.info("%s: not heeded by this server: %s", path, ", ".join(sorted(unheeded)))
    return BatchingOptions(**values)


def _parameters_class() -> Any:
    """The message class of `BatchingParameters`."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching_parameters.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name=_NAME)
    for number, (name, wrapped) in enumerate(_WRAPPED.items(), 1):
        message.field.add(
            name=name,
            number=number,
            label=kind.LABEL_OPTIONAL,
            type=kind.TYPE_MESSAGE,
            type_name=f".google.protobuf.{wrapped}",
        )
    message.field.add(
        name="allowed_batch_sizes", number=6, label=kind.LABEL_REPEATED, type=kind.TYPE_INT64
    )
    message.field.add(
        name="pad_variable_length_inputs", number=7, label=kind.LABEL_OPTIONAL, type=kind.TYPE_BOOL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(_NAME))

"""TF Serving's `--batching_parameters_file`, as far as the embedded server heeds it."""

import logging
from pathlib import Path

from serving.batching import BatchingOptions
from serving.text_protos import read_text_proto
from tfrs_twotower.schema import UsageError

_LOG = logging.getLogger(__name__)

_FIELDS = {
    "max_batch_size": "Int64Value",
    "batch_timeout_micros": "Int64Value",
    "max_enqueued_batches": "Int64Value",
    "num_batch_threads": "Int64Value",
    "thread_pool_name": "StringValue",
    "allowed_batch_sizes": "repeated int64",
    "pad_variable_length_inputs": "bool",
    "enable_large_batch_splitting": "BoolValue",
    "max_execution_batch_size": "Int64Value",
}
# The others have nothing to say here: no request waits for a batch to fill, none is split, and
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
    proto = read_text_proto(path, "BatchingParameters", _FIELDS, "batching parameters file")
    given = {field.name: value for field, value in proto.ListFields()}
    values = {name: getattr(given[name], "value", given[name]) for name in _HEEDED if name in given}
    for name, value in values.items():
        if value < 1:
            raise UsageError(f"{path}: {name} must be 1 or more, got {value}")
    if unheeded := given.keys() - set(_HEEDED):
        _LOG.info("%s: not heeded by this server: %s", path, ", ".join(sorted(unheeded)))
    return BatchingOptions(**values)

"""What Predict means: the checks, defaults and answers of TF Serving, on one loaded version."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.errors import InvalidRequestError, SignatureNotFoundError
from serving.loading import Servable
from serving.tensors import Array, Signature, describe, to_array, to_proto

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Limits:
    """What one request may ask.

    Attributes:
        max_batch_size: Rows of any input.
        max_elements: Elements of any input.
    """

    max_batch_size: int = 4096
    max_elements: int = 4 * 1024 * 1024


class Execute(Protocol):
    """Runs a signature, as `Servable.run` does."""

    def __call__(
        self, servable: Servable, signature: str, inputs: Mapping[str, Array], /
    ) -> dict[str, Array]:
        """See `Servable.run`."""


def predict(
    servable: Servable, request: Any, limits: Limits, execute: Execute = Servable.run
) -> Any:
    """Answers a `PredictRequest`.

    Args:
        servable: The version that answers.
        request: The request; its model spec's version has been looked up already.
        limits: What the request may ask.
        execute: What runs the signature once the request has been checked.

    Returns:
        The `PredictResponse`; its model spec names version and signature.

    Raises:
        ServingError: With TF Serving's status for the mistake.
    """
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = signature_of(servable, key)
    wanted = _wanted(signature, request.output_filter)
    inputs = {}
    for name, proto in request.inputs.items():
        try:
            inputs[name] = to_array(proto, limits.max_elements)
        except ValueError as error:
            raise InvalidRequestError(f"tensor parsing error: {name}: {error}") from error
    outputs = run(servable, key, inputs, limits, execute)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = key
    for name in wanted:
        response.outputs[name].CopyFrom(to_proto(outputs[name]))
    return response


def run(
    servable: Servable,
    key: str,
    inputs: Mapping[str, Array],
    limits: Limits,
    execute: Execute = Servable.run,
) -> dict[str, Array]:
    """Checks inputs, fills in defaults and runs a signature.

    Raises:
        ServingError: With TF Serving's status for the mistake.
    """
    signature = signature_of(servable, key)
    _check_names(signature, inputs)
    for name, array in inputs.items():
        _check_tensor(signature, name, array, limits)
    return execute(servable, key, {**signature.defaults, **inputs})


def signature_of(servable: Servable, key: str) -> Signature:
    """The signature of that name.

    Raises:
        SignatureNotFoundError: If there is none.
    """
    if key not in servable.signatures:
        raise SignatureNotFoundError(
            f'Serving signature key "{key}" not found. '
            f"The model has {{{_joined(servable.signatures)}}}."
        )
    return servable.signatures[key]


def _check_names(signature: Signature, given: Iterable[str]) -> None:
    sent, known = set(given), set(signature.inputs)
    extra, missing = sent - known, known - sent - set(signature.defaults)
    if extra or missing:
        raise InvalidRequestError(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({{{_joined(sent)}}}) != len({{{_joined(known)}}}). "
            f"Sent extra: {{{_joined(extra)}}}. Missing but required: {{{_joined(missing)}}}."
        )


def _check_tensor(signature: Signature, name: str, array: Array, limits: Limits) -> None:
    spec = signature.inputs[name]
    dtype = tf.string if array.dtype == object else tf.dtypes.as_dtype(array.dtype)
    if dtype != spec.dtype or not spec.fits(array.shape):
        raise InvalidRequestError(
            f"Expects input {name} to be {spec} but {describe(array)} is provided"
        )
    if array.ndim and array.shape[0] > limits.max_batch_size:
        raise InvalidRequestError(
            f"input {name} has {array.shape[0]} rows, more than --max_batch_size "
            f"{limits.max_batch_size}"
        )


def _wanted(signature: Signature, output_filter: Iterable[str]) -> list[str]:
    wanted = list(output_filter)
    for name in wanted:
        if name not in signature.outputs:
            raise InvalidRequestError(
                f"output tensor alias not found in signature: {name} Outputs expected to be in the "
                f"set {{{_joined(signature.outputs)}}}."
            )
    if len(set(wanted)) < len(wanted):
        twice = next(name for name in wanted if wanted.count(name) > 1)
        raise InvalidRequestError(f"duplicate output tensor alias: {twice}")
    return wanted or list(signature.outputs)


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))

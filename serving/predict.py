"""What Predict means: the checks, defaults and answers of TF Serving, on one loaded version."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow_serving.apis import predict_pb2

from serving.errors import InvalidRequestError, SignatureNotFoundError
from serving.loading import Servable
from serving.tensors import Array, Signature, describe, to_array, write

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Limits:
    """What one request may ask.

    Attributes:
        max_batch_size: Rows of any input.
        max_elements: Elements of all inputs together. One row that stands for many queries, such
            as `exclude_ids`, counts once a query: so it is held once the model runs.
    """

    max_batch_size: int = 4096
    max_elements: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """A `PredictRequest` that has been checked.

    Attributes:
        servable: The version that answers.
        signature: Name of the signature to run.
        inputs: Every input of it.
        wanted: Names of the outputs to answer with.
    """

    servable: Servable
    signature: str
    inputs: dict[str, Array]
    wanted: list[str]

    def response(self, outputs: Mapping[str, Array]) -> Any:
        """The `PredictResponse`; its model spec names version and signature."""
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self.servable.name
        response.model_spec.version.value = self.servable.version
        response.model_spec.signature_name = self.signature
        for name in self.wanted:
            write(outputs[name], response.outputs[name])
        return response


def predict(servable: Servable, request: Any, limits: Limits) -> Any:
    """Answers a `PredictRequest` with a `PredictResponse`; see `checked_call`."""
    call = checked_call(servable, request, limits)
    return call.response(servable.run(call.signature, call.inputs))


def checked_call(servable: Servable, request: Any, limits: Limits) -> Call:
    """Reads and checks a `PredictRequest`.

    Args:
        servable: The version that answers.
        request: The request; its model spec's version has been looked up already.
        limits: What the request may ask.

    Raises:
        ServingError: With TF Serving's status for the mistake.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = signature_of(servable, name)
    wanted = _wanted(signature, request.output_filter)
    _check_names(signature, request.inputs)
    inputs: dict[str, Array] = {}
    num_left = limits.max_elements
    for key, proto in request.inputs.items():
        try:
            inputs[key] = to_array(proto, num_left)
        except ValueError as error:
            raise InvalidRequestError(f"tensor parsing error: {key}: {error}") from error
        num_left -= inputs[key].size
    return Call(servable, name, checked_inputs(servable, name, inputs, limits), wanted)


def checked_inputs(
    servable: Servable, name: str, inputs: Mapping[str, Array], limits: Limits
) -> dict[str, Array]:
    """Checks the inputs of a signature and fills in its defaults.

    Raises:
        ServingError: With TF Serving's status for the mistake.
    """
    signature = signature_of(servable, name)
    _check_names(signature, inputs)
    for key, array in inputs.items():
        _check_tensor(signature, key, array, limits)
    if signature.is_batched:
        _check_elements(inputs.values(), limits)
    return {**signature.defaults, **inputs}


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
    if array.dtype != spec.dtype or not spec.fits(array.shape):
        raise InvalidRequestError(
            f"Expects input {name} to be {spec} but {describe(array)} is provided"
        )
    if array.ndim and array.shape[0] > limits.max_batch_size:
        raise InvalidRequestError(
            f"input {name} has {array.shape[0]} rows, more than --max_batch_size "
            f"{limits.max_batch_size}"
        )


def _check_elements(arrays: Collection[Array], limits: Limits) -> None:
    num_queries = max((len(array) for array in arrays), default=0)
    num_elements = sum(num_queries * math.prod(array.shape[1:]) for array in arrays)
    if num_elements > limits.max_elements:
        raise InvalidRequestError(
            f"{num_queries} queries with {num_elements} elements, one row for all counted once a "
            f"query, are more than the limit of {limits.max_elements}: ask fewer at once"
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

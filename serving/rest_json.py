"""The JSON of TF Serving's REST API: requests to arrays, arrays to answers.

Rows, `{"instances": [{"user_id": "1"}, ...]}`, are answered with rows, `{"predictions": [...]}`;
columns, `{"inputs": {"user_id": ["1", ...]}}`, with columns, `{"outputs": {...}}`. Optional inputs
may be left out, as over gRPC; TF Serving's REST API insists on them.

By the standard library's JSON, which reads and writes NaN, a missing number: orjson refuses it and
writes null. Of an answer of 100 candidates orjson would save 40 us.
"""

import base64
import json
import math
from collections.abc import Mapping, Set
from typing import Any, Literal, NamedTuple

import numpy as np

from serving.errors import InvalidRequestError
from serving.predict import DEFAULT_SIGNATURE
from serving.tensors import TEXT, Array, Signature, dtype_name

MAX_SHOWN = 80
MAX_RANK = 64  # Of NumPy's arrays.
BYTES_SUFFIX = "_bytes"

Layout = Literal["row", "column"]


class Question(NamedTuple):
    """A parsed request body."""

    signature: str
    layout: Layout
    values: Any  # The value of "instances" or "inputs", unchecked.


def parse(body: bytes) -> Question:
    """Reads a request body.

    Raises:
        InvalidRequestError: If it is not JSON of the two forms.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"JSON Parse error: {_short(error)}") from error
    if not isinstance(document, dict):
        raise InvalidRequestError(f"JSON Value: {_short(document)} Is not object")
    signature = document.get("signature_name", DEFAULT_SIGNATURE)
    if not isinstance(signature, str):
        raise InvalidRequestError("'signature_name' key must be a string value.")
    given = {"instances", "inputs"} & document.keys()
    if not given:
        raise InvalidRequestError("Missing 'inputs' or 'instances' key")
    if len(given) == 2:
        raise InvalidRequestError(
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        )
    if "inputs" in given:
        return Question(signature or DEFAULT_SIGNATURE, "column", document["inputs"])
    rows = document["instances"]
    if not isinstance(rows, list) or not rows:
        raise InvalidRequestError("Expecting 'instances' to be a list/array with values")
    return Question(signature or DEFAULT_SIGNATURE, "row", rows)


def to_inputs(question: Question, signature: Signature) -> dict[str, Array]:
    """The inputs that a request body gives, as arrays.

    Raises:
        InvalidRequestError: If an input is missing, unknown, ragged or of another type.
    """
    if question.layout == "row":
        columns = _columns(question.values, signature)
    else:
        columns = _named(question.values, signature)
    return {
        name: _array(name, values, signature.inputs[name].dtype) for name, values in columns.items()
    }


def render(outputs: Mapping[str, Array], layout: Layout) -> bytes:
    """The answer's body; a single output stands without its name.

    Raises:
        InvalidRequestError: If rows were asked and the outputs do not have one each.
    """
    plain = {name: _plain(name, outputs[name]) for name in sorted(outputs)}
    answer: Any
    if layout == "column":
        answer = plain if len(plain) > 1 else next(iter(plain.values()))
        return json.dumps({"outputs": answer}).encode()
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) != 1 or () in sizes:
        raise InvalidRequestError("the outputs have no common batch size: ask by 'inputs'")
    if len(plain) == 1:
        answer = next(iter(plain.values()))
    else:
        answer = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return json.dumps({"predictions": answer}).encode()


def _columns(rows: list[Any], signature: Signature) -> dict[str, list[Any]]:
    known = signature.inputs.keys()
    if not _is_object(rows[0]):
        if len(known) > 1:
            raise InvalidRequestError(
                "instances is a plain list, but expecting list of objects as multiple input "
                f"tensors required: {','.join(known)}"
            )
        return {next(iter(known)): rows}
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if not _is_object(row) or row.keys() != names or not _may_be_named(names, signature):
            optional = ", ".join(signature.defaults)
            hint = f"; all rows may leave out {optional}" if optional else ""
            raise InvalidRequestError(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{_short(row)} keys must be equal to: {','.join(known)}{hint}"
            )
    return {name: [row[name] for row in rows] for name in names}


def _may_be_named(names: Set[str], signature: Signature) -> bool:
    required = signature.inputs.keys() - signature.defaults.keys()
    return required <= names <= signature.inputs.keys()


def _named(values: Any, signature: Signature) -> dict[str, Any]:
    names = signature.inputs.keys()
    if not _is_object(values):
        if len(names) > 1:
            raise InvalidRequestError(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                f"required: {','.join(names)}"
            )
        return {next(iter(names)): values}
    for name in names:
        if name not in values and name not in signature.defaults:
            raise InvalidRequestError(f"Missing named input: {name} in 'inputs' object.")
    if extra := values.keys() - names:
        raise InvalidRequestError(f"JSON object: does not have named input: {min(extra)}")
    return dict(values)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _array(name: str, values: Any, dtype: np.dtype[Any]) -> Array:
    shape: list[int] = []
    level = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    if len(shape) > MAX_RANK:
        raise InvalidRequestError(f"input {name}: lists stand {len(shape)} levels deep")
    flat = [values]
    for size in shape:
        if not all(isinstance(item, list) and len(item) == size for item in flat):
            raise InvalidRequestError(
                f"input {name}: lists of one level must be of one size; pad them to {size}"
            )
        flat = [value for item in flat for value in item]
    return np.array([_value(name, value, dtype) for value in flat], dtype).reshape(shape)


def _value(name: str, value: Any, dtype: np.dtype[Any]) -> Any:
    if dtype == TEXT:
        if isinstance(value, str):
            return value.encode(errors="surrogatepass")
        if _is_base64(value):
            try:
                return base64.b64decode(value["b64"], validate=True)
            except ValueError as error:
                raise InvalidRequestError(f"input {name}: Unable to base64 decode") from error
    elif dtype == np.bool_:
        if isinstance(value, bool):
            return value
    elif dtype.kind == "f":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # Python compares any whole number with a float; NumPy would turn it into one first.
        if is_number and not float(np.finfo(dtype).max) < abs(value) < math.inf:
            return value
    elif dtype.kind in "iu":
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if is_number and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return value
    raise InvalidRequestError(
        f"input {name}: JSON Value: {_short(value)} is not of expected type: {dtype_name(dtype)}"
    )


def _plain(name: str, array: Array) -> Any:
    if array.dtype == object:
        if name.endswith(BYTES_SUFFIX):
            values = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
        else:
            values = [value.decode(errors="replace") for value in array.ravel()]
        plain = np.empty(array.size, object)
        plain[:] = values
        return plain.reshape(array.shape).tolist()
    if array.dtype == np.float32:
        # By way of its shortest decimal text, or 0.2 would be shown as 0.20000000298023224.
        return array.astype("U").astype(np.float64).tolist()
    return array.tolist()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."

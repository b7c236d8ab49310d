"""`TensorProto` <-> NumPy, and what a signature says of its tensors.

Protos are TensorFlow's or those of `serving.wire`. TensorFlow is imported for dtypes that the
models of this project do not have, and no others.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# How often the last of several values is repeated at most: requests that wait are held in memory.
MAX_REPEATS = 2**16

_MAX_DEFAULTS = 2**20  # Elements of a default of a signature.

TEXT = np.dtype(object)
"""Of arrays of text, which hold bytes."""

# Of TensorFlow's numbered dtypes those that requests hold: the field of TensorProto with their
# values, as TF Serving fills it in answers. The others are left to TensorFlow.
_FIELDS = {
    1: ("float32", "float_val"),
    2: ("float64", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    7: ("object", "string_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}
_READ_AS = {number: (np.dtype(name), field) for number, (name, field) in _FIELDS.items()}
_WRITTEN_AS = {dtype: (number, field) for number, (dtype, field) in _READ_AS.items()}


class TensorSpec(NamedTuple):
    """Dtype and shape of an input or output; -1 is a size that may vary."""

    dtype: np.dtype[Any]  # `TEXT` for text.
    shape: tuple[int, ...] | None  # None: any rank

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape may stand here."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))
        )

    def __str__(self) -> str:
        """For example "string [-1,-1]"."""
        shape = "[...]" if self.shape is None else f"[{','.join(map(str, self.shape))}]"
        return f"{dtype_name(self.dtype)} {shape}"


@dataclass(frozen=True)
class Signature:
    """A signature of a SavedModel.

    Attributes:
        inputs: Inputs by name, names ascending.
        outputs: Outputs by name, names ascending.
        defaults: Values of the inputs that a request may leave out.
        feeds: Names of the graph's tensors, in the order of `inputs`.
        fetches: Names of the graph's tensors, in the order of `outputs`.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Mapping[str, Array] = field(default_factory=dict)
    feeds: tuple[str, ...] = ()
    fetches: tuple[str, ...] = ()

    @cached_property
    def is_batched(self) -> bool:
        """Whether every input has a first dimension that may vary: its rows."""
        has_required = self.inputs.keys() != self.defaults.keys()
        shapes = (spec.shape for spec in self.inputs.values())
        return has_required and all(shape and shape[0] == -1 for shape in shapes)

    @classmethod
    def from_proto(cls, signature_def: Any) -> "Signature":
        """Reads a `tensorflow.SignatureDef`."""
        inputs, outputs = sorted(signature_def.inputs), sorted(signature_def.outputs)
        return cls(
            inputs={name: _spec(signature_def.inputs[name]) for name in inputs},
            outputs={name: _spec(signature_def.outputs[name]) for name in outputs},
            defaults={
                name: to_array(proto, max_elements=_MAX_DEFAULTS)
                for name, proto in signature_def.defaults.items()
            },
            feeds=tuple(signature_def.inputs[name].name for name in inputs),
            fetches=tuple(signature_def.outputs[name].name for name in outputs),
        )


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    return TensorSpec(
        _READ_AS[info.dtype][0] if info.dtype in _READ_AS else _by_tensorflow(info.dtype),
        None if shape.unknown_rank else tuple(int(dim.size) for dim in shape.dim),
    )


def _by_tensorflow(number: int) -> np.dtype[Any]:
    import tensorflow as tf

    return np.dtype(tf.dtypes.as_dtype(number).as_numpy_dtype)


def dtype_name(dtype: np.dtype[Any]) -> str:
    """TensorFlow's name of a dtype."""
    return "string" if dtype == TEXT else dtype.name


def to_array(proto: Any, max_elements: int) -> Array:
    """Decodes a `TensorProto` of unknown origin.

    Args:
        proto: The tensor; fewer values than elements repeat the last one, as in TensorFlow.
        max_elements: Refuse more: a few bytes can announce a tensor of any size. So can they with
            `MAX_REPEATS`.

    Returns:
        The values; strings are an object array of bytes.

    Raises:
        ValueError: If the proto is not a tensor that a request may hold.
    """
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
        raise ValueError("the shape is not fully known")
    if math.prod(sizes) > max_elements:
        raise ValueError(f"{math.prod(sizes)} elements are more than the limit of {max_elements}")
    try:
        if proto.dtype in _READ_AS:
            return _values(proto, math.prod(sizes)).reshape(sizes)
        import tensorflow as tf

        return np.asarray(tf.make_ndarray(proto))
    except (TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError("dtype and values do not belong together") from error


def _values(proto: Any, num_elements: int) -> Array:
    """The values one after the other, as `tf.make_ndarray` gives them."""
    dtype, field = _READ_AS[proto.dtype]
    if proto.tensor_content:
        return np.frombuffer(proto.tensor_content, dtype)
    given = np.fromiter(getattr(proto, field), dtype)
    num_missing = num_elements - len(given)
    if num_missing <= 0:
        return given
    last = given[-1:] if len(given) else np.array([b""] if field == "string_val" else [0], dtype)
    if len(given) <= 1:
        return np.broadcast_to(last, num_elements)  # A view: it takes no memory while it waits.
    if num_missing > MAX_REPEATS:
        raise ValueError(f"{num_elements} elements, but only {len(given)} values")
    return np.concatenate([given, np.repeat(last, num_missing)])


def write(array: Array, proto: Any) -> None:
    """Encodes an array into an empty `TensorProto`, its values in the field of their dtype."""
    if array.dtype not in _WRITTEN_AS:
        import tensorflow as tf

        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype, field = _WRITTEN_AS[array.dtype]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())


def describe(array: Array) -> str:
    """Dtype and shape of an array, written like a `TensorSpec`."""
    return str(TensorSpec(array.dtype, array.shape))

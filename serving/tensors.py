"""`TensorProto` <-> NumPy, and what a signature says of its tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

Array = np.ndarray[Any, np.dtype[Any]]

# How often the last of several values is repeated at most: requests that wait are held in memory.
MAX_REPEATS = 2**16

# The field of TensorProto that holds the values of a dtype, as TF Serving fills it in answers.
_VALUE_FIELDS = {
    tf.string: "string_val",
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
}
# The same by number of the dtype, and by what NumPy calls it.
_READ_AS = {
    dtype.as_datatype_enum: (np.dtype(dtype.as_numpy_dtype), field)
    for dtype, field in _VALUE_FIELDS.items()
}
_WRITTEN_AS = {dtype: (number, field) for number, (dtype, field) in _READ_AS.items()}


class TensorSpec(NamedTuple):
    """Dtype and shape of an input or output; -1 is a size that may vary."""

    dtype: tf.DType
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
        return f"{self.dtype.name} {shape}"


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
            defaults={name: tf.make_ndarray(p) for name, p in signature_def.defaults.items()},
            feeds=tuple(signature_def.inputs[name].name for name in inputs),
            fetches=tuple(signature_def.outputs[name].name for name in outputs),
        )


def _spec(info: Any) -> TensorSpec:
    shape = info.tensor_shape
    return TensorSpec(
        tf.dtypes.as_dtype(info.dtype),
        None if shape.unknown_rank else tuple(int(dim.size) for dim in shape.dim),
    )


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
        return np.asarray(tf.make_ndarray(proto))
    except (TypeError, KeyError, IndexError, OverflowError) as error:
        raise ValueError("dtype and values do not belong together") from error


def _values(proto: Any, num_elements: int) -> Array:
    """The values one after the other: `tf.make_ndarray` for a fraction of its time."""
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


def to_proto(array: Array) -> Any:
    """Encodes an array, its values in the field of their dtype."""
    proto = tensor_pb2.TensorProto()
    write(array, proto)
    return proto


def write(array: Array, proto: Any) -> None:
    """Encodes an array into an empty `TensorProto`; see `to_proto`."""
    if array.dtype not in _WRITTEN_AS:
        proto.CopyFrom(tf.make_tensor_proto(array))
        return
    proto.dtype, field = _WRITTEN_AS[array.dtype]
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())


def describe(array: Array) -> str:
    """Dtype and shape of an array, written like a `TensorSpec`."""
    dtype = tf.string if array.dtype == object else tf.dtypes.as_dtype(array.dtype)
    return str(TensorSpec(dtype, array.shape))

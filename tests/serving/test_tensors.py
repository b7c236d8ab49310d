"""Tensors on the wire."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.tensors import MAX_REPEATS, TEXT, Signature, TensorSpec, to_array, write

MANY = 1000


def to_proto(array):
    proto = tensor_pb2.TensorProto()
    write(array, proto)
    return proto


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.array([[b"a", "ä".encode()], [b"", b"\xff"]], object), id="string"),
        pytest.param(np.array([[1.5, np.nan, -np.inf]], np.float32), id="float32"),
        pytest.param(np.array([0.1], np.float64), id="float64"),
        pytest.param(np.array([2**31 - 1, -(2**31)], np.int32), id="int32"),
        pytest.param(np.array([2**62], np.int64), id="int64"),
        pytest.param(np.array([True, False]), id="bool"),
        pytest.param(np.array([1.5], np.float16), id="float16"),
        pytest.param(np.zeros((0, 3), np.float32), id="empty"),
        pytest.param(np.array(7, np.int32), id="scalar"),
    ],
)
def test_an_array_survives_the_wire(array):
    proto = tensor_pb2.TensorProto.FromString(to_proto(array).SerializeToString())

    read = to_array(proto, MANY)

    assert read.dtype == array.dtype
    assert read.shape == array.shape
    np.testing.assert_array_equal(read, array)


def test_tensorflow_reads_what_we_write():
    proto = to_proto(np.array([[b"x", b"y"]], object))

    assert tf.io.parse_tensor(proto.SerializeToString(), tf.string).numpy().tolist() == [
        [b"x", b"y"]
    ]


def test_packed_content_is_read():
    proto = tf.make_tensor_proto(np.array([1.0, 2.0], np.float32))
    assert proto.tensor_content

    assert to_array(proto, MANY).tolist() == [1.0, 2.0]


def test_a_last_value_stands_for_the_rest():
    proto = tensor_pb2.TensorProto(dtype=tf.int32.as_datatype_enum, int_val=[1, 2])
    proto.tensor_shape.dim.add(size=4)

    assert to_array(proto, MANY).tolist() == [1, 2, 2, 2]


def bomb():
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[0.0])
    for _ in range(2):
        proto.tensor_shape.dim.add(size=2**31)
    return proto


def negative():
    proto = to_proto(np.zeros(2, np.float32))
    proto.tensor_shape.dim[0].size = -1
    return proto


def too_many_values():
    proto = tensor_pb2.TensorProto(dtype=tf.int32.as_datatype_enum, int_val=[1, 2])
    proto.tensor_shape.dim.add(size=1)
    return proto


def odd_content():
    proto = tensor_pb2.TensorProto(dtype=tf.float32.as_datatype_enum, tensor_content=b"xyz")
    proto.tensor_shape.dim.add(size=1)
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(bomb(), id="announces more than it may"),
        pytest.param(negative(), id="negative size"),
        pytest.param(too_many_values(), id="more values than elements"),
        pytest.param(odd_content(), id="content of another length"),
        pytest.param(tensor_pb2.TensorProto(dtype=999), id="unknown dtype"),
        pytest.param(
            tensor_pb2.TensorProto(dtype=tf.resource.as_datatype_enum), id="a handle, not values"
        ),
    ],
)
def test_what_is_no_tensor_is_refused(proto):
    with pytest.raises(ValueError, match=r"."):
        to_array(proto, MANY)


@pytest.mark.parametrize(
    ("spec_shape", "shape", "fits"),
    [
        pytest.param((-1, 3), (5, 3), True, id="batch varies"),
        pytest.param((-1, 3), (5, 4), False, id="width is fixed"),
        pytest.param((-1,), (5, 1), False, id="rank"),
        pytest.param(None, (1, 2, 3), True, id="any rank"),
    ],
)
def test_a_spec_tells_which_shapes_fit(spec_shape, shape, fits):
    assert TensorSpec(np.dtype(np.float32), spec_shape).fits(shape) is fits


def test_a_spec_reads_like_a_type():
    assert str(TensorSpec(TEXT, (-1, 4))) == "string [-1,4]"


def test_a_signature_is_read_from_its_proto():
    proto = tf.compat.v1.saved_model.build_signature_def({}, {})
    proto.inputs["x"].name, proto.inputs["x"].dtype = "in:0", tf.int32.as_datatype_enum
    proto.inputs["x"].tensor_shape.dim.add(size=-1)
    proto.outputs["y"].name, proto.outputs["y"].dtype = "out:0", tf.string.as_datatype_enum
    proto.outputs["y"].tensor_shape.unknown_rank = True
    proto.defaults["x"].CopyFrom(tf.make_tensor_proto(np.array([7], np.int32)))

    signature = Signature.from_proto(proto)

    assert signature.inputs == {"x": TensorSpec(np.dtype(np.int32), (-1,))}
    assert signature.outputs == {"y": TensorSpec(TEXT, None)}
    assert signature.defaults["x"].tolist() == [7]
    assert (signature.feeds, signature.fetches) == (("in:0",), ("out:0",))


def test_one_value_for_a_whole_tensor_takes_no_memory_of_it():
    proto = tf.make_tensor_proto("x", shape=[1000, 1000])

    array = to_array(proto, 10**6)

    assert array.shape == (1000, 1000)
    assert array.strides == (0, 0)
    assert array[999, 999] == b"x"


def test_the_last_of_several_values_is_not_repeated_without_end():
    proto = to_proto(np.array([[b"a", b"b"]], object))
    proto.tensor_shape.dim[1].size = 2 + MAX_REPEATS

    assert to_array(proto, 10**6).tolist()[0][-2:] == [b"b", b"b"]
    proto.tensor_shape.dim[1].size += 1
    with pytest.raises(ValueError, match="65539 elements, but only 2 values"):
        to_array(proto, 10**6)

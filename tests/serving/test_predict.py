"""Limits on what one request may ask; the rest of Predict is in test_server."""

import pytest
import tensorflow as tf

from serving.errors import InvalidRequestError
from serving.loading import load
from serving.predict import Limits, checked_call, predict
from tests.serving.toy_models import EAST, many_rows, predict_request


@pytest.fixture(scope="module")
def servable(models_dir):
    servable = load(models_dir / "retrieval" / "3", "retrieval", 3)
    yield servable
    servable.close()


def test_a_batch_up_to_the_limit_is_answered(servable):
    response = predict(servable, predict_request(**many_rows(4)), Limits(max_batch_size=4))

    assert [dim.size for dim in response.outputs["scores"].tensor_shape.dim] == [4, 3]


def test_a_larger_batch_is_refused(servable):
    with pytest.raises(InvalidRequestError, match="5 rows, more than --max_batch_size 4"):
        predict(servable, predict_request(**many_rows(5)), Limits(max_batch_size=4))


def test_a_tensor_with_too_many_elements_is_refused_unread(servable):
    request = predict_request(**EAST)
    request.inputs["history"].tensor_shape.dim[1].size = 2**40

    with pytest.raises(InvalidRequestError, match="tensor parsing error: history"):
        predict(servable, request, Limits())


def spread(num_queries, width):
    """A request of a few bytes: `exclude_ids` of one row, each value given once."""
    request = predict_request()
    sizes = {"user_id": [num_queries], "history": [num_queries, 1], "exclude_ids": [1, width]}
    for name, shape in sizes.items():
        request.inputs[name].dtype = tf.string.as_datatype_enum
        for size in shape:
            request.inputs[name].tensor_shape.dim.add(size=size)
    request.inputs["age"].CopyFrom(tf.make_tensor_proto([1.0] * num_queries))
    return request


def test_one_row_that_stands_for_every_query_counts_once_a_query(servable):
    limits = Limits(max_elements=100)  # 10 queries with user, history and age leave 70.

    assert predict(servable, spread(10, 6), limits).outputs["scores"].ByteSize()
    with pytest.raises(InvalidRequestError, match="10 queries with .* than the limit of 100"):
        predict(servable, spread(10, 8), limits)


def test_a_small_request_for_all_memory_is_refused_before_it_runs(servable):
    request = spread(4096, 30_000)
    del request.inputs["age"]
    assert request.ByteSize() < 185
    request.inputs["age"].CopyFrom(tf.make_tensor_proto(0.0, shape=[4096]))

    with pytest.raises(InvalidRequestError, match="more than the limit"):
        checked_call(servable, request, Limits())


def test_inputs_are_counted_together(servable):
    request = predict_request(**many_rows(4))  # 12 elements.

    with pytest.raises(InvalidRequestError, match="tensor parsing error"):
        predict(servable, request, Limits(max_elements=11))

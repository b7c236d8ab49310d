"""Limits on what one request may ask; the rest of Predict is in test_server."""

import pytest

from serving.errors import InvalidRequestError
from serving.loading import load
from serving.predict import Limits, predict
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

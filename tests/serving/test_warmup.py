"""The requests that an export carries."""

import pytest
import tensorflow as tf

from serving.errors import LoadError
from serving.loading import load
from serving.predict import Limits
from serving.warmup import warm_up
from tests.serving.toy_models import EAST, predict_request, write_retrieval, write_warmup


@pytest.fixture
def version_path(tmp_path):
    return write_retrieval(tmp_path, 1)


@pytest.fixture
def servable(version_path):
    servable = load(version_path, "retrieval", 1)
    yield servable
    servable.close()


def test_every_request_is_replayed(version_path, servable):
    write_warmup(version_path, *[predict_request(**EAST)] * 3)

    assert warm_up(servable, version_path, Limits()) == 3


def test_a_version_without_requests_is_fine(version_path, servable):
    assert warm_up(servable, version_path, Limits()) == 0


def test_a_request_that_the_model_refuses_is_told(version_path, servable):
    write_warmup(version_path, predict_request(**EAST), predict_request(user_id=["east"]))

    with pytest.raises(LoadError, match="the model refuses record 1: input size does not match"):
        warm_up(servable, version_path, Limits())


def test_a_damaged_file_is_told(version_path, servable):
    path = write_warmup(version_path, *[predict_request(**EAST)] * 2)
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(LoadError, match="is damaged after record 1"):
        warm_up(servable, version_path, Limits())


def test_a_record_of_another_kind_is_told(version_path, servable):
    path = write_warmup(version_path)
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"")

    with pytest.raises(LoadError, match="record 0 is not a Predict request"):
        warm_up(servable, version_path, Limits())

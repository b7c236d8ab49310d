"""A value of the wrong type is told before a model is loaded."""

import pytest

import tfrs_twotower as tt
from tests import tiny_world
from tfrs_twotower import api
from tfrs_twotower.publishing import models_folder, versions


@pytest.fixture
def unloadable(monkeypatch):
    """A models folder of which only the config can be read."""
    monkeypatch.setattr(versions, "choose", lambda *_: 1)
    monkeypatch.setattr(models_folder, "read_config", lambda *_: tiny_world.config())
    return "models"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"user_id": 42}, 'user_id takes text, got int: ids are text, such as "42"'),
        ({"user_id": ["42"]}, "user_id takes text, got list"),
    ],
)
def test_a_value_of_the_wrong_type_is_told_first(unloadable, query, said):
    with pytest.raises(tt.UserError) as caught:
        api.recommend(unloadable, query)

    assert said in str(caught.value)

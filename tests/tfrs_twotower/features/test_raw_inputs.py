"""Tables of a models folder, as the models take them."""

import numpy as np
import pyarrow as pa

from tfrs_twotower.features.encoding import raw_spec
from tfrs_twotower.features.raw_inputs import candidate_inputs, query_inputs
from tfrs_twotower.schema.features import (
    Boolean,
    Categorical,
    History,
    Id,
    MultiCategorical,
    Number,
    Text,
    Timestamp,
    Vector,
)

FEATURES = {
    "item": Id(),
    "language": Categorical(),
    "genres": MultiCategorical(),
    "title": Text(),
    "price": Number(),
    "fresh": Boolean(),
    "content": Vector(dimension=2),
    "released": Timestamp(),
}
TABLE = pa.table(
    {
        "candidate_id": ["a", "b"],
        "language": ["en", None],
        "genres": [["x", "y"], None],
        "title": ["Ä", None],
        "price": pa.array([1.5, None], pa.float32()),
        "fresh": pa.array([1.0, None], pa.float32()),
        "content": pa.array([[1.0, 2.0], None], pa.list_(pa.float32())),
        "released": [86400, None],
    }
)


def values(tensors):
    return {name: tensor.numpy().tolist() for name, tensor in tensors.items()}


def test_every_kind_of_feature_and_its_missing_value():
    raw = values(candidate_inputs(FEATURES, TABLE))

    assert np.isnan(raw["content"][1]).all()
    assert np.isnan([raw["price"][1], raw["fresh"][1]]).all()
    assert raw["item"] == [b"a", b"b"]
    assert raw["language"] == [b"en", b""]
    assert [[text for text in row if text] for row in raw["genres"]] == [[b"x", b"y"], []]
    assert raw["title"] == ["Ä".encode(), b""]
    assert (raw["price"][0], raw["fresh"][0], raw["content"][0]) == (1.5, 1.0, [1.0, 2.0])
    assert raw["released"] == [86400, 0]


def test_inputs_have_the_types_that_the_models_take():
    for name, tensor in candidate_inputs(FEATURES, TABLE).items():
        assert raw_spec(FEATURES[name], name).is_compatible_with(tensor)


def test_lists_that_are_all_empty_still_have_a_column():
    table = pa.table({"candidate_id": ["a"], "genres": pa.array([[]], pa.list_(pa.string()))})

    raw = candidate_inputs({"genres": MultiCategorical()}, table)

    assert raw["genres"].numpy().tolist() == [[b""]]


def test_what_is_not_known_of_a_query_is_missing():
    features = {
        "user": Id(),
        "history": History(),
        "clock": Timestamp(),
        "on_phone": Boolean(),
        "mood": Vector(dimension=2),
        "likes": MultiCategorical(),
    }
    table = pa.table({"user": ["ann", "bob"], "history": [["a"], []]})

    raw = values(query_inputs(features, table))

    assert raw["user"] == [b"ann", b"bob"]
    assert raw["history"] == [[b"", b"a"], [b"", b""]]
    assert raw["clock"] == [0, 0]
    assert np.isnan(raw["on_phone"]).all()
    assert np.isnan(raw["mood"]).all()
    assert raw["likes"] == [[b""], [b""]]

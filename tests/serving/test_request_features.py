"""What requests give of each feature is counted by hand."""

import json

import numpy as np
import pytest

from serving.request_features import (
    FeatureCounts,
    RequestFeatures,
    read_features,
)

KNOWN = [b"a", b"b", b"c"]


def text(*values):
    return np.array(values, object)


def counted(array, vocabulary=KNOWN):
    features = RequestFeatures({"x": vocabulary and "x.txt"}, {"x.txt": vocabulary or []})
    return features.count({"x": array, "k": np.array([3])})["x"]


def test_text_is_known_unknown_or_missing():
    assert counted(text(b"a", b"", b"z", b"c")) == FeatureCounts(3, 1, known=2, unknown=1)
    assert counted(text(b"a", b"", b"z"), None) == FeatureCounts(2, 1)


def test_of_lists_every_entry_counts_but_the_padding():
    lists = text([b"", b"a", b"z"], [b"", b"", b""], [b"b", b"b", b""])

    assert counted(lists) == FeatureCounts(given=2, missing=1, known=3, unknown=1)


@pytest.mark.parametrize(
    ("array", "given", "missing"),
    [
        (np.array([1.5, np.nan, 0.0], np.float32), 2, 1),
        (np.array([1_700_000_000, 0], np.int64), 1, 1),
        # A vector is missing where all of it is.
        (np.array([[1.0, np.nan], [np.nan, np.nan]], np.float32), 1, 1),
    ],
)
def test_numbers_times_and_vectors_are_given_or_missing(array, given, missing):
    assert counted(array, None) == FeatureCounts(given, missing)


def test_each_feature_has_its_own_vocabulary_and_knows_each_token_of_it():
    tokens = [f"item-{number}".encode() for number in range(10_000)]
    features = RequestFeatures(
        {"even": "even.txt", "none": "none.txt", "odd": "odd.txt"},
        {"even.txt": tokens[::2], "odd.txt": tokens[1::2], "none.txt": []},
    )
    given = text(*tokens)

    found = features.count({"even": given[::2], "none": given, "odd": given[:10]})

    assert found == {
        "even": FeatureCounts(5_000, 0, known=5_000, unknown=0),
        "none": FeatureCounts(10_000, 0, known=0, unknown=10_000),
        "odd": FeatureCounts(10, 0, known=5, unknown=5),
    }


def test_every_fifth_request_is_counted():
    features = RequestFeatures({"x": None}, {})

    counted = [bool(features.count_some({"x": text(b"a")})) for _ in range(11)]

    assert counted == [True, *[False] * 4] * 2 + [True]


def test_features_are_those_that_the_manifest_tells(tmp_path):
    assert read_features(tmp_path).count({"user": text(b"a")}) == {}

    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets").mkdir()
    manifest = tmp_path / "assets.extra" / "manifest.json"
    manifest.write_text("{}")
    assert read_features(tmp_path).count({"user": text(b"a")}) == {}

    files = {"user": "user.txt", "history": "item.txt", "age": None, "plan": "plan.txt"}
    manifest.write_text(json.dumps({"features": files}))
    (tmp_path / "assets" / "user.txt").write_bytes(b"a\nb\r\n")
    (tmp_path / "assets" / "item.txt").write_bytes("é\n".encode())
    inputs = {
        "user": text(b"a", b"b\r", b"b"),
        "history": text(["é".encode()], [b"a"], [b""]),
        "age": np.array([1.0, 2.0, 3.0], np.float32),
        # TensorFlow saves no asset for a vocabulary without tokens.
        "plan": text(b"free", b"", b""),
    }
    assert read_features(tmp_path).count(inputs) == {
        "user": FeatureCounts(3, 0, known=2, unknown=1),
        "history": FeatureCounts(2, 1, known=1, unknown=1),
        "age": FeatureCounts(3),
        "plan": FeatureCounts(1, 2, unknown=1),
    }

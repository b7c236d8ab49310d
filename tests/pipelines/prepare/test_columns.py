"""Columns of any type become one canonical form; what cannot be read is bad, not missing."""

import math

import pyarrow as pa
import pytest

from pipelines.prepare.columns import (
    to_attribute,
    to_booleans,
    to_floats,
    to_integers,
    to_text,
    to_tokens,
    to_vectors,
)

SEPARATOR = "\x1f"


def listed(converted):
    return converted.values.to_pylist(), converted.is_bad.tolist()


@pytest.mark.parametrize(
    ("array", "text"),
    [
        pytest.param(pa.array([7, None]), ["7", ""], id="integers"),
        pytest.param(pa.array([42.0, math.nan, 1.5]), ["42", "", "1.5"], id="floats"),
        pytest.param(pa.array([True, None]), ["true", ""], id="booleans"),
        pytest.param(pa.array(["a", None, ""]), ["a", "", ""], id="text"),
        pytest.param(pa.array(["a", None, "a"]).dictionary_encode(), ["a", "", "a"], id="dict"),
        pytest.param(pa.array([None, None]), ["", ""], id="nulls"),
    ],
)
def test_text_of_any_type(array, text):
    assert to_text(array).to_pylist() == text


@pytest.mark.parametrize(
    ("array", "values", "bad"),
    [
        pytest.param(pa.array([1, None]), [1, None], [0, 0], id="integers"),
        pytest.param(pa.array([1.0, 1.5, math.nan]), [1, None, None], [0, 1, 0], id="floats"),
        pytest.param(pa.array(["3", "-4"]), [3, -4], [0, 0], id="digits"),
        pytest.param(
            pa.array([" 3", "3.0", "x", "", "0x10", "9" * 30]),
            [3, 3, None, None, None, None],
            [0, 0, 1, 0, 1, 1],
            id="rubbish-between",
        ),
        pytest.param(pa.array(["0x10"]), [None], [1], id="hexadecimal-alone"),
    ],
)
def test_integers_of_any_type(array, values, bad):
    assert listed(to_integers(array)) == (values, [bool(b) for b in bad])


@pytest.mark.parametrize(
    ("array", "values", "bad"),
    [
        pytest.param(pa.array([1, None]), [1.0, None], [0, 0], id="integers"),
        pytest.param(pa.array([0.5, math.nan, math.inf]), [0.5, None, None], [0, 0, 1], id="f"),
        pytest.param(pa.array(["1e3", ".5"]), [1000.0, 0.5], [0, 0], id="text"),
        pytest.param(
            pa.array([" 1.5 ", "abc", "", "NaN", "inf", "1e400"]),
            [1.5, None, None, None, None, None],
            [0, 1, 0, 0, 1, 1],
            id="rubbish-between",
        ),
        pytest.param(
            pa.array(["2", None, "x", "2"]).dictionary_encode(),
            [2.0, None, None, 2.0],
            [0, 0, 1, 0],
            id="dictionary",
        ),
    ],
)
def test_numbers_of_any_type(array, values, bad):
    assert listed(to_floats(array, pa.float32())) == (values, [bool(b) for b in bad])


def test_a_number_too_large_for_float32_is_bad():
    assert listed(to_floats(pa.array([1e39]), pa.float32())) == ([None], [True])


def test_truth_values_in_the_usual_spellings():
    array = pa.array(["TRUE", "no", "1", "0", "", "maybe"])

    assert listed(to_booleans(array)) == (
        [1.0, 0.0, 1.0, 0.0, None, None],
        [False, False, False, False, False, True],
    )


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(pa.array(["a | b", "", "c"]), id="text"),
        pytest.param(pa.array(["a|b", "", "c"]).dictionary_encode(), id="dictionary"),
        pytest.param(pa.array([["a", "b"], None, ["c"]]), id="lists"),
    ],
)
def test_tokens_of_texts_and_lists(array):
    assert to_tokens(array, "|").to_pylist() == [f"a{SEPARATOR}b", "", "c"]


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(pa.array([[1.0, 2.0], None, [1.0], [1.0, None]]), id="lists"),
        pytest.param(pa.array(["[1, 2]", "", "1", "1 x"]), id="text"),
        pytest.param(pa.array([["1", "2"], None, ["1"], ["1", "x"]]), id="lists-of-text"),
    ],
)
def test_vectors_must_have_their_dimension(array):
    assert listed(to_vectors(array, 2)) == (
        [[1.0, 2.0], None, None, None],
        [False, False, True, True],
    )


def test_attributes_stay_text_or_lists():
    assert to_attribute(pa.array([1, 2])).to_pylist() == ["1", "2"]
    assert to_attribute(pa.array([["a"], None])).to_pylist() == [["a"], []]

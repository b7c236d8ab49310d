"""Columns of any type become one canonical form; what cannot be read is bad, not missing."""

import math
from datetime import date, datetime

import pyarrow as pa
import pytest

from pipelines.prepare.columns import (
    to_attribute,
    to_booleans,
    to_floats,
    to_integers,
    to_seconds,
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


NOON = 1_714_564_800  # 2024-05-01 12:00 UTC
MIDNIGHT = NOON - 12 * 3600


@pytest.mark.parametrize(
    ("array", "seconds"),
    [
        pytest.param(pa.array([NOON, None]), [NOON, None], id="integers"),
        pytest.param(pa.array([float(NOON)]), [NOON], id="floats"),
        pytest.param(pa.array([str(NOON), ""]), [NOON, None], id="digits"),
        pytest.param(pa.array(["20240501"]), [20_240_501], id="digits-are-no-date"),
        pytest.param(pa.array(["2024-05-01"]), [MIDNIGHT], id="day"),
        pytest.param(pa.array(["2024/05/01"]), [MIDNIGHT], id="slashes"),
        pytest.param(pa.array(["2024-05-01 12:00"]), [NOON], id="minutes"),
        pytest.param(pa.array(["2024-05-01T12:00:00"]), [NOON], id="no-zone"),
        pytest.param(pa.array(["2024-05-01T12:00:00Z"]), [NOON], id="zulu"),
        pytest.param(pa.array(["2024-05-01T14:00:00+02:00"]), [NOON], id="zone"),
        pytest.param(pa.array(["2024-05-01T14:00:00+0200"]), [NOON], id="zone-without-colon"),
        pytest.param(pa.array([" 2024-05-01 12:00:00.999 "]), [NOON], id="fraction"),
        pytest.param(pa.array(["1969-12-31T23:59:59.5Z"]), [-1], id="fraction-before-1970"),
        pytest.param(
            pa.array(["2024-05-01", str(NOON), None, "2024-05-01T12:00:00+00:00"]),
            [MIDNIGHT, NOON, None, NOON],
            id="mixed",
        ),
        pytest.param(
            pa.array(["2024-05-01", "2024-05-01"]).dictionary_encode(),
            [MIDNIGHT, MIDNIGHT],
            id="dictionary",
        ),
        pytest.param(pa.array([date(2024, 5, 1), None]), [MIDNIGHT, None], id="arrow-date"),
        *(
            pytest.param(
                pa.array([datetime(2024, 5, 1, 12), None], pa.timestamp(unit)),
                [NOON, None],
                id=f"arrow-{unit}",
            )
            for unit in ("s", "ms", "us", "ns")
        ),
        pytest.param(
            pa.array([NOON * 1000], pa.timestamp("ms", "Asia/Tokyo")), [NOON], id="arrow-zone"
        ),
    ],
)
def test_moments_of_any_form_are_whole_seconds(array, seconds):
    assert listed(to_seconds(array)) == (seconds, [False] * len(seconds))


@pytest.mark.parametrize(
    "text", ["01/05/2024", "2024-02-30", "2024-13-01T10:00:00Z", "yesterday", "1714564800.5"]
)
def test_moments_that_cannot_be_read_are_bad(text):
    assert listed(to_seconds(pa.array(["2024-05-01", text]))) == ([MIDNIGHT, None], [False, True])


NOON = 1_714_564_800  # 2024-05-01 12:00:00 UTC


@pytest.mark.parametrize(
    ("time_format", "values", "seconds"),
    [
        ("milliseconds", [str(1000 * NOON + 999), "soon", ""], [NOON, None, None]),
        ("milliseconds", [1000 * NOON, -1500, None], [NOON, -2, None]),
        ("microseconds", [1_000_000 * NOON + 1], [NOON]),
        ("%d/%m/%Y %H:%M", ["01/05/2024 12:00", "31/02/2024 00:00", ""], [NOON, None, None]),
        ("%m/%d/%Y %H:%M", ["05/01/2024 12:00", "2024-05-01", None], [NOON, None, None]),
        ("%d.%m.%Y %H:%M:%S %z", ["01.05.2024 14:00:00 +0200"], [NOON]),
    ],
)
def test_moments_are_read_by_the_format_of_the_config(time_format, values, seconds):
    array = pa.array(values)

    for one in (array, array.dictionary_encode()):
        found = to_seconds(one, time_format)

        assert found.values.to_pylist() == seconds
        is_missing = [value in ("", None) for value in values]
        wanted = [second is None for second in seconds]
        assert found.is_bad.tolist() == [
            w and not m for w, m in zip(wanted, is_missing, strict=True)
        ]


def test_moments_of_parquet_are_read_whatever_the_format_of_the_config():
    array = pa.array([NOON], pa.timestamp("s"))

    assert to_seconds(array, "milliseconds").values.to_pylist() == [NOON]

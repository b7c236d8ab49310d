"""Columns are taken for what they are."""

import numpy as np
import pandas as pd
import pytest

from tfrs_twotower.datasets.guessing import look_at, to_seconds

JANUARY = 1_704_067_200  # 1 January 2024, 00:00 UTC


def texts(*values: str, times: int = 50) -> pd.Series:
    return pd.Series([*values] * times, dtype=str)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        pytest.param(texts("1.5", "2", "-3"), "number", id="numbers"),
        pytest.param(pd.Series([1.5, np.nan, 2.0]), "number", id="typed-numbers"),
        pytest.param(pd.Series([3, None, 4], dtype="Int64"), "number", id="integers-with-gaps"),
        pytest.param(texts("1", "0", ""), "boolean", id="ones-and-zeros"),
        pytest.param(texts("True", "false"), "boolean", id="true-and-false"),
        pytest.param(pd.Series([True, False, None]), "boolean", id="typed-booleans"),
        pytest.param(texts("red", "green", ""), "categorical", id="few-words"),
        pytest.param(texts("01234", "04711", "09999"), "categorical", id="codes-with-zeros"),
        pytest.param(texts("a|b", "b", "c|a"), "multi_categorical", id="separated"),
        pytest.param(pd.Series([["a", "b"], ["b"]] * 9), "multi_categorical", id="lists"),
        pytest.param(pd.Series([[0.1, 2.0], [0.3, 1.0]]), "vector", id="lists-of-numbers"),
        pytest.param(texts("[0.1, 2.0]", "[0.3, 1]"), "vector", id="numbers-in-brackets"),
        pytest.param(texts("2024-01-02T03:04:05Z", "2024-05-01"), "moment", id="iso-dates"),
        pytest.param(pd.Series(range(JANUARY, JANUARY + 9)), "moment", id="unix-seconds"),
        pytest.param(
            pd.Series([f"The {n}th of {n + 1} very long films" for n in range(99)]),
            "text",
            id="sentences",
        ),
        pytest.param(pd.Series([f"x{n}" for n in range(99)]), "unclear", id="codes"),
        pytest.param(texts("", ""), "unclear", id="empty"),
        pytest.param(pd.Series([None, None]), "unclear", id="nothing"),
    ],
)
def test_content_is_told_by_the_values(values, kind):
    assert look_at(values).kind == kind


def test_a_few_malformed_values_do_not_change_what_a_column_is():
    values = pd.Series([str(JANUARY + n) for n in range(99)] + ["yesterday"])

    content = look_at(values)

    assert (content.kind, content.unit) == ("moment", "seconds")


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1, "seconds"), (1_000, "milliseconds"), (1_000_000, "microseconds")],
    ids=["s", "ms", "us"],
)
def test_the_unit_of_a_moment_is_told_by_its_size(factor, unit):
    values = pd.Series([(JANUARY + n) * factor for n in range(10)])

    assert look_at(values).unit == unit
    assert to_seconds(values, unit).tolist() == [JANUARY + n for n in range(10)]


def test_dates_become_unix_seconds():
    values = pd.Series(["2024-01-01", "2024-01-01T01:00:00+01:00", "2024-01-01 00:00:10", "soon"])

    seconds = to_seconds(values, "text")

    assert seconds[:3].tolist() == [JANUARY, JANUARY, JANUARY + 10]
    assert np.isnan(seconds[3])


def test_an_implausible_moment_is_none():
    seconds = to_seconds(pd.Series([str(JANUARY), f"{JANUARY}000", "-5"]), "seconds")

    assert seconds.notna().tolist() == [True, False, False]


def test_the_separator_and_the_number_of_tokens_are_found():
    content = look_at(texts("drama;war", "comedy", "war;comedy"))

    assert (content.separator, content.num_distinct) == (";", 3)


def test_a_comma_in_a_sentence_separates_nothing():
    values = pd.Series([f"Once upon a time, {n} bears lived in a wood" for n in range(99)])

    assert look_at(values).kind == "text"


def test_the_dimension_of_vectors_is_found():
    assert look_at(pd.Series([np.zeros(768), np.ones(768)])).dimension == 768
    assert look_at(texts("[1 2 3]", "[4 5 6]")).dimension == 3


def test_lists_of_numbers_of_changing_length_are_no_vector():
    assert look_at(pd.Series([[1.0], [1.0, 2.0], [3.0, 1.0, 2.0]])).kind == "unclear"


@pytest.mark.parametrize(
    ("values", "is_skewed"),
    [
        pytest.param(list(range(18, 80)), False, id="ages"),
        pytest.param([1] * 90 + [5000] * 10, True, id="views"),
        pytest.param([-1] * 50 + [1] * 40 + [5000] * 10, False, id="signed"),
    ],
)
def test_a_long_tail_is_seen(values, is_skewed):
    assert look_at(pd.Series(values)).is_skewed == is_skewed

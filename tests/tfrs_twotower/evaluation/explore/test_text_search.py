import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.evaluation.explore.text_search import MAX_CHARACTERS, TextSearch

TITLES = ["Red Tea", "Green tea", "Milk", "Old Wine (tea brewed)"]


@pytest.fixture
def search():
    order = np.array([3, 1, 0, 2])
    return TextSearch(pa.array(["i1", "i2", "i3", "tea"]), TITLES, order)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("milk", [2]),
        ("TEA", [3, 1, 0]),  # The id that is meant first, then in the given order.
        ("tea red", [0]),
        ("i", [3, 1, 0, 2]),
        ("i2", [1]),
        ("", [3, 1, 0, 2]),
        ("coffee", []),
        (".*", []),
        ("(tea", [3]),
    ],
)
def test_all_words_must_occur_in_any_order_and_case(search, words, expected):
    assert search.find(words, 10) == expected


def test_no_more_rows_than_wanted(search):
    assert search.find("tea", 2) == [3, 1]


def test_a_very_long_text_is_cut(search):
    assert search.find("milk" + " " * MAX_CHARACTERS + "tea", 10) == [2]


def test_ids_alone_are_searched_in_their_order():
    assert TextSearch(pa.array(["u10", "u1", "u2"])).find("u1", 10) == [1, 0]

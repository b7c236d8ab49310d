"""Columns of the candidates -> what rules read."""

import numpy as np
import pyarrow as pa
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.retrieval.attributes import CandidateAttributes, FilterAttribute
from tfrs_twotower.retrieval.lists import NO_MORE, Listed, distinct
from tfrs_twotower.retrieval.ranges import RangeAttribute
from tfrs_twotower.schema import UsageError, UserError, parse_config
from tfrs_twotower.schema.rules import Rules


def having(column: pa.Array, *texts: str) -> list[bool]:
    """Which candidates have one of the values."""
    attribute = FilterAttribute("colour", column)
    rows = tf.range(len(column), dtype=tf.int64)[tf.newaxis]
    wanted = attribute.rows(tf.constant([list(texts)]))
    return attribute.has_one_of(rows, wanted).numpy()[0].tolist()


def in_order(listed: Listed) -> list[int]:
    """The candidates of a single query."""
    rows = distinct(listed.rows(tf.constant([True]))).numpy()[0]
    return rows[rows != NO_MORE].tolist()


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(["red", "blue", None, "", "red"]), id="text"),
        pytest.param(pa.array(["red", "blue", None, "", "red"]).dictionary_encode(), id="codes"),
        pytest.param(pa.array([["red"], ["blue", "red "], [], None, ["green", "red"]]), id="lists"),
    ],
)
def test_candidates_have_the_values_of_their_column(column):
    assert having(column, "red") == [True, False, False, False, True]
    assert having(column, "blue", "?") == [False, True, False, False, False]
    assert having(column, "", "?") == [False] * 5


def test_truth_values_and_whole_numbers_are_asked_for_as_text():
    assert having(pa.array([True, False, None]), "true") == [True, False, False]
    assert having(pa.array([1.0, 0.0, float("nan")], pa.float32()), "false") == [False, True, False]
    assert having(pa.array([7, 12, None]), "12") == [False, True, False]


def test_an_attribute_that_nobody_has_is_an_attribute():
    assert having(pa.array([None, ""], pa.string()), "-", "red") == [False, False]


def test_the_share_of_several_values_is_their_sum():
    column = pa.array([["a"], ["a", "b"], ["c"], []])
    attribute = FilterAttribute("tag", column)

    wanted = attribute.rows(tf.constant([["a", "?"], ["b", "c"], ["", "?"]]))

    assert attribute.listed(wanted).share.numpy().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a"], [0, 1, 4]),
        (["b", "c"], [1, 2]),
        (["a", "b", "?", ""], [0, 1, 4]),
        (["c", "c"], [2]),
        (["?", ""], []),
    ],
)
def test_the_candidates_of_values_are_found_without_a_scan(texts, expected):
    column = pa.array([["a"], ["a", "b"], ["c"], [], ["a"]])
    attribute = FilterAttribute("tag", column)
    listed = attribute.listed(attribute.rows(tf.constant([texts])))

    assert in_order(listed) == expected
    assert listed.size.numpy()[0] >= len(expected)


def test_no_candidate_has_a_value_of_an_attribute_that_is_always_missing():
    attribute = FilterAttribute("tag", pa.array([None, ""], pa.string()))

    assert in_order(attribute.listed(attribute.rows(tf.constant([["-"]])))) == []


def test_the_lists_of_a_batch_are_filled_up_where_they_are_wanted():
    column = pa.array([["a"], ["a", "b"], ["c"], [], ["a"]])
    attribute = FilterAttribute("tag", column)
    listed = attribute.listed(attribute.rows(tf.constant([["c", ""], ["b", "a"], ["a", "b"]])))

    rows = listed.rows(tf.constant([True, False, True])).numpy()

    assert rows.tolist() == [[2] + [NO_MORE] * 3, [NO_MORE] * 4, [0, 1, 4, 1]]


def test_a_list_holds_each_candidate_once_in_ascending_order():
    rows = distinct(tf.constant([[5, NO_MORE, 3, 5], [1, 2, 3, NO_MORE]], tf.int64)).numpy()

    assert rows.tolist() == [[3, 5, NO_MORE, NO_MORE], [1, 2, 3, NO_MORE]]
    assert distinct(tf.zeros([2, 0], tf.int64)).shape == (2, 0)


@pytest.mark.parametrize(
    ("column", "least", "most", "expected"),
    [
        pytest.param(pa.array([3, 1, None, 2, 2]), 2, 2, [3, 4], id="whole"),
        pytest.param(pa.array([0.5, 0.1, float("nan")], pa.float32()), 0.1, 0.4, [1], id="single"),
        pytest.param(pa.array(["7.5", "", "-1"]), -1, 7, [2], id="text"),
        pytest.param(pa.array([1.0, 2.0]), 3, 1, [], id="crossed"),
        pytest.param(pa.array([None, None], pa.int64()), 0, 1, [], id="missing"),
    ],
)
def test_numbers_are_found_by_their_bounds(column, least, most, expected):
    attribute = RangeAttribute("price", column)
    wanted = attribute.range(tf.constant([least], tf.float64), tf.constant([most], tf.float64))
    rows = tf.range(len(column), dtype=tf.int64)[tf.newaxis]

    listed = attribute.listed(wanted)
    assert in_order(listed) == expected
    assert listed.size.numpy().tolist() == [len(expected)]
    assert np.flatnonzero(attribute.is_within(rows, wanted).numpy()[0]).tolist() == expected


def test_a_candidate_without_time_is_as_old_as_the_oldest():
    table = pa.table({"at": [500, None, 300, 0]})

    attributes = CandidateAttributes(Rules(timestamp="at"), table)

    assert attributes.timestamps_s.numpy().tolist() == [500, 300, 300, 300]
    assert attributes.newest_s == 500


def test_times_may_be_text():
    attributes = CandidateAttributes(Rules(timestamp="at"), pa.table({"at": ["500", "", "300"]}))

    assert attributes.timestamps_s.numpy().tolist() == [500, 300, 300]


def test_candidates_without_category_are_counted_apart():
    table = pa.table({"shop": ["a", "b", None, "a", ""]})

    attributes = CandidateAttributes(Rules(category="shop"), table)

    assert attributes.num_uncategorised == 2
    assert sorted(attributes.category_sizes.numpy().tolist()) == [1, 2]
    categories = attributes.categories.numpy()
    assert categories[0] == categories[3] != categories[1]
    np.testing.assert_array_equal(categories[[2, 4]], [-1, -1])


@pytest.mark.parametrize(
    ("rules", "column", "message"),
    [
        pytest.param({"filters": ["y"]}, ["a"], "names y, which the candidates lack", id="lacks"),
        pytest.param({"filters": ["x"]}, [0.5], "numbers with fractions", id="fractions"),
        pytest.param({"filters": ["x"]}, [{"a": 1}], "expected text", id="structs"),
        pytest.param({"category": "x"}, [["a", "b"]], "several values", id="several"),
        pytest.param({"ranges": ["x"]}, ["May"], "holds no numbers", id="no-number"),
        pytest.param({"ranges": ["x"]}, [True], "holds no numbers", id="no-order"),
        pytest.param({"timestamp": "x"}, ["May"], "no time in Unix seconds", id="no-time"),
    ],
)
def test_a_column_that_does_not_suit_its_role_is_refused(rules, column, message):
    with pytest.raises(UserError, match=message):
        CandidateAttributes(Rules(**rules), pa.table({"x": column}))


CONFIG = """\
columns: {{timestamp: ts{columns}}}
features:
  query: {{user_id: {{kind: id}}}}
  candidate:
    item_id: {{kind: id}}
    genres: {{kind: multi_categorical}}
    language: {{kind: categorical}}
    price: {{kind: number}}
export: {{attributes: [shop, "shop name"]}}
rules: {rules}
"""


def config_of(rules: str, columns: str = ""):
    return parse_config(CONFIG.format(rules=rules, columns=columns), "here.yaml")


def test_rules_name_features_and_attributes():
    config = config_of("{filters: [genres, shop], category: language}")

    assert config.rules.columns == ["genres", "shop", "language"]


def test_rules_need_no_new_preparation():
    plain, with_rules = config_of("{}"), config_of("{filters: [genres], category: shop}")

    assert plain.fingerprint() == with_rules.fingerprint()


def test_the_moment_a_candidate_appears_is_its_time_unless_another_is_named():
    assert config_of("{}").resolved_rules.timestamp is None
    assert config_of("{}", ", available_from: born").resolved_rules.timestamp == "available_from"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        pytest.param("{filters: [genre]}", "genre is no candidate feature", id="unknown"),
        pytest.param("{filters: [item_id]}", "item_id is no candidate feature", id="id"),
        pytest.param("{filters: [price]}", "kind number; expected one of categorical", id="number"),
        pytest.param("{filters: [genres, genres]}", "twice", id="twice"),
        pytest.param('{filters: ["shop name"]}', "letters, digits and _", id="name"),
        pytest.param("{ranges: [language]}", "expected one of number, timestamp", id="range"),
        pytest.param("{ranges: [price, price]}", "twice", id="range-twice"),
        pytest.param("{available_until: price}", "kind number", id="until"),
        pytest.param("{category: genres}", "kind multi_categorical", id="category"),
        pytest.param("{timestamp: available_from}", "is no candidate feature", id="no-time"),
        pytest.param("{timestamp: language}", "kind categorical", id="time-kind"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules, message):
    with pytest.raises(UsageError, match=message):
        config_of(rules)

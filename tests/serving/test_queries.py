"""Queries as people write them."""

import numpy as np
import pytest

from serving.errors import InvalidRequestError
from serving.queries import as_rows, build_inputs
from serving.tensors import TEXT, Signature, TensorSpec

SIGNATURE = Signature(
    inputs={
        "age": TensorSpec(np.dtype(np.float32), (-1,)),
        "exclude_ids": TensorSpec(TEXT, (-1, -1)),
        "history": TensorSpec(TEXT, (-1, -1)),
        "k": TensorSpec(np.dtype(np.int32), (-1,)),
        "taste": TensorSpec(np.dtype(np.float32), (-1, 2)),
        "time_s": TensorSpec(np.dtype(np.int64), (-1,)),
        "user_id": TensorSpec(TEXT, (-1,)),
    },
    outputs={},
    defaults={"k": np.array([10], np.int32), "exclude_ids": np.array([[b""]], object)},
)
QUERY = {"user_id": "42", "history": ["7", "9"], "age": 30, "time_s": 5, "taste": [0.5, 1.0]}
NAN = float("nan")


def built(*queries, **extra):
    return build_inputs(SIGNATURE, as_rows(list(queries)), extra)


def test_values_take_the_type_of_their_input():
    inputs = built(QUERY)

    assert {name: (array.dtype, array.tolist()) for name, array in inputs.items()} == {
        "user_id": (object, [b"42"]),
        "history": (object, [[b"", b"7", b"9"]]),
        "age": (np.float32, [30.0]),
        "time_s": (np.int64, [5]),
        "taste": (np.float32, [[0.5, 1.0]]),
    }


def test_lists_are_padded_to_the_longest():
    inputs = built(QUERY, {**QUERY, "history": []}, {**QUERY, "history": ["1"]})

    assert inputs["history"].tolist() == [[b"", b"7", b"9"], [b"", b"", b""], [b"", b"1", b""]]


def test_lists_of_text_start_with_what_a_merging_server_may_fill_them_up_with():
    """But for candidates to score, which have a column each in the answer."""
    lists = TensorSpec(TEXT, (-1, -1))
    signature = Signature({"history": lists, "candidate_ids": lists}, outputs={})

    inputs = build_inputs(signature, [{"history": ["7"]}], {"candidate_ids": ["a", "b"]})

    assert inputs["history"].tolist() == [[b"", b"7"]]
    assert inputs["candidate_ids"].tolist() == [[b"a", b"b"]]


def test_none_is_the_missing_value_of_its_type():
    inputs = built(dict.fromkeys(QUERY))

    assert inputs["user_id"].tolist() == [b""]
    assert inputs["history"].tolist() == [[b""]]
    assert inputs["time_s"].tolist() == [0]
    np.testing.assert_array_equal(inputs["age"], [NAN])
    np.testing.assert_array_equal(inputs["taste"], [[NAN, NAN]])


def test_optional_inputs_stay_away_from_a_single_query():
    assert built(QUERY).keys() == QUERY.keys()


def test_optional_inputs_are_repeated_for_several_queries():
    inputs = built(QUERY, QUERY, QUERY)

    assert inputs["k"].tolist() == [10, 10, 10]
    assert inputs["exclude_ids"].tolist() == [[b""]] * 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(["a", "b"], [[b"", b"a", b"b"]] * 2, id="one list for all"),
        pytest.param([["a"], ["b", "c"]], [[b"", b"a", b""], [b"", b"b", b"c"]], id="one each"),
        pytest.param([[], ["b"]], [[b"", b""], [b"", b"b"]], id="one empty"),
    ],
)
def test_extra_lists_are_for_all_queries_or_one_each(value, expected):
    assert built(QUERY, QUERY, exclude_ids=value)["exclude_ids"].tolist() == expected


def test_extra_numbers_are_for_all_queries_or_one_each():
    assert built(QUERY, QUERY, k=3)["k"].tolist() == [3, 3]
    assert built(QUERY, QUERY, k=[3, 4])["k"].tolist() == [3, 4]


def test_an_optional_input_may_stand_in_a_query():
    assert built({**QUERY, "k": 2}, QUERY)["k"].tolist() == [2, 10]


def test_a_feature_that_is_not_named_is_missing():
    named, left_out = built(dict.fromkeys(QUERY)), built({})

    assert left_out.keys() == named.keys()
    for name, array in left_out.items():
        np.testing.assert_array_equal(array, named[name])


@pytest.mark.parametrize(
    ("query", "extra", "said"),
    [
        pytest.param({**QUERY, "usr_id": "4"}, {}, "did you mean user_id", id="misspelt feature"),
        pytest.param(QUERY, {"flavour": 1}, "no input flavour: it has age,", id="unknown rule"),
        pytest.param({**QUERY, "user_id": 42}, {}, 'user_id takes text, got int: .*"42"', id="id"),
        pytest.param({**QUERY, "history": "7"}, {}, "history takes a list", id="text for a list"),
        pytest.param({**QUERY, "user_id": ["7"]}, {}, "user_id takes text", id="list for a text"),
        pytest.param({**QUERY, "age": [1.0]}, {}, r"age takes float32 \[-1\]", id="list for one"),
        pytest.param({**QUERY, "age": "old"}, {}, "age takes float32 values", id="text"),
        pytest.param({**QUERY, "time_s": 1.5}, {}, "time_s takes int64 values", id="fraction"),
        pytest.param({**QUERY, "taste": [1.0]}, {}, "taste takes 2 values", id="short"),
        pytest.param({**QUERY, "taste": [1.0] * 3}, {}, "taste takes 2 values", id="long"),
        pytest.param({**QUERY, "k": 5}, {"k": 9}, "k belongs to the call", id="said twice"),
        pytest.param(QUERY, {"k": 2**31}, "k takes int32 values, got one out of", id="range"),
        pytest.param(QUERY, {"k": [1, 2]}, "k has 2 rows for 1 queries", id="rows"),
    ],
)
def test_what_does_not_fit_is_named(query, extra, said):
    with pytest.raises(InvalidRequestError, match=said):
        built(query, **extra)


def test_no_query_is_refused():
    with pytest.raises(InvalidRequestError, match="no query"):
        as_rows([])

"""The JSON of the REST API."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from serving import rest_json
from serving.errors import InvalidRequestError
from serving.tensors import TEXT, Signature, TensorSpec
from tfrs_twotower.features.encoding import raw_spec
from tfrs_twotower.schema import load_config

TWO = Signature(
    inputs={"history": TensorSpec(TEXT, (-1, -1)), "k": TensorSpec(np.dtype(np.int32), (-1,))},
    outputs={},
)
ONE = Signature(inputs={"x": TensorSpec(np.dtype(np.float32), (-1,))}, outputs={})


def inputs(document, signature=TWO):
    return rest_json.to_inputs(rest_json.parse(json.dumps(document).encode()), signature)


def plain(arrays):
    return {name: (array.dtype, array.tolist()) for name, array in arrays.items()}


def test_rows_are_stacked():
    rows = [{"history": ["a", "ä"], "k": 1}, {"history": ["b", ""], "k": 2}]

    assert plain(inputs({"instances": rows})) == {
        "history": (object, [[b"a", "ä".encode()], [b"b", b""]]),
        "k": (np.int32, [1, 2]),
    }


def test_columns_are_taken_as_they_are():
    assert plain(inputs({"inputs": {"history": [["a"]], "k": [7]}})) == {
        "history": (object, [[b"a"]]),
        "k": (np.int32, [7]),
    }


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_a_single_input_needs_no_name(key):
    assert plain(inputs({key: [1, 2.5]}, ONE)) == {"x": (np.float32, [1.0, 2.5])}


OPTIONAL_K = Signature(TWO.inputs, {}, {"k": np.array([10], np.int32)})


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"inputs": {"history": [["a"], ["b"]]}}, id="columns"),
        pytest.param({"instances": [{"history": ["a"]}, {"history": ["b"]}]}, id="rows"),
    ],
)
def test_an_optional_input_may_be_left_out(document):
    assert plain(inputs(document, OPTIONAL_K)) == {"history": (object, [[b"a"], [b"b"]])}


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([{"k": 1}], id="a required one is left out"),
        pytest.param([{"history": ["a"]}, {"history": ["a"], "k": 1}], id="by one row of two"),
        pytest.param([{"history": ["a"], "q": 1}], id="an unknown one is named"),
    ],
)
def test_rows_name_what_is_required_and_all_the_same(rows):
    with pytest.raises(InvalidRequestError, match="all rows may leave out k$"):
        inputs({"instances": rows}, OPTIONAL_K)


def test_base64_gives_bytes():
    document = {"instances": [{"history": [{"b64": "/wA="}], "k": 1}]}

    assert inputs(document)["history"].tolist() == [[b"\xff\x00"]]


def test_a_signature_may_be_named():
    assert rest_json.parse(b'{"signature_name": "score", "inputs": []}').signature == "score"
    assert rest_json.parse(b'{"inputs": []}').signature == "serving_default"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "JSON Parse error", id="empty"),
        pytest.param(b"\xff", "JSON Parse error", id="not text"),
        pytest.param(b"[" * 100_000, "JSON Parse error", id="too deep"),
        pytest.param(b"[]", "Is not object", id="list"),
        pytest.param(b"{}", "Missing 'inputs' or 'instances' key", id="neither"),
        pytest.param(b'{"inputs": 1, "instances": 1}', "only one of", id="both"),
        pytest.param(b'{"instances": []}', "with values", id="no rows"),
        pytest.param(b'{"instances": {}}', "list/array", id="rows are no list"),
        pytest.param(b'{"signature_name": 1, "inputs": 1}', "string value", id="signature"),
    ],
)
def test_a_body_of_another_form_is_refused(body, said):
    with pytest.raises(InvalidRequestError, match=said):
        rest_json.parse(body)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        pytest.param({"instances": [{"k": 1}]}, "keys must be equal to: history,k", id="missing"),
        pytest.param({"instances": [1]}, "list of objects", id="no names"),
        pytest.param({"inputs": {"k": [1]}}, "Missing named input: history", id="missing column"),
        pytest.param(
            {"inputs": {"k": [1], "history": [["a"]], "z": []}}, "input: z", id="unknown column"
        ),
        pytest.param(
            {"inputs": {"k": [1], "history": [["a"], ["a", "b"]]}}, "one size", id="ragged"
        ),
        pytest.param(
            {"inputs": {"k": [1, [2]], "history": [["a"]]}}, "expected type: int32", id="mixed"
        ),
        pytest.param({"inputs": {"k": [2**31], "history": [["a"]]}}, "int32", id="too large"),
        pytest.param({"inputs": {"k": [1.5], "history": [["a"]]}}, "int32", id="fraction"),
        pytest.param({"inputs": {"k": [True], "history": [["a"]]}}, "int32", id="boolean"),
        pytest.param({"inputs": {"k": [1], "history": [[None]]}}, "string", id="null"),
        pytest.param(
            {"inputs": {"k": [1], "history": [[{"b64": "x"}]]}}, "base64", id="not base64"
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(document, said):
    with pytest.raises(InvalidRequestError, match=said):
        inputs(document)


OUTPUTS = {
    "scores": np.array([[0.2, -3.4028235e38]], np.float32),
    "ids": np.array([["ä".encode(), b""]], object),
}


def test_rows_are_answered_with_rows():
    assert json.loads(rest_json.render(OUTPUTS, "row")) == {
        "predictions": [{"ids": ["ä", ""], "scores": [0.2, -3.4028235e38]}]
    }


def test_columns_are_answered_with_columns():
    assert json.loads(rest_json.render(OUTPUTS, "column")) == {
        "outputs": {"ids": [["ä", ""]], "scores": [[0.2, -3.4028235e38]]}
    }


@pytest.mark.parametrize(
    ("layout", "answer"),
    [("row", {"predictions": [1, 2]}), ("column", {"outputs": [1, 2]})],
)
def test_a_single_output_stands_without_its_name(layout, answer):
    assert json.loads(rest_json.render({"count": np.array([1, 2])}, layout)) == answer


def test_bytes_are_answered_in_base64():
    rendered = rest_json.render({"image_bytes": np.array([b"\xff\x00"], object)}, "row")

    assert json.loads(rendered) == {"predictions": [{"b64": "/wA="}]}


def test_outputs_without_rows_cannot_be_answered_in_rows():
    with pytest.raises(InvalidRequestError, match="no common batch size"):
        rest_json.render({"a": np.zeros(2), "b": np.zeros(3)}, "row")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        pytest.param(10**400, "is not of expected type: float32", id="400 digits"),
        pytest.param({"b64": "é"}, "is not of expected type: float32", id="object"),
        pytest.param([[1.0]], "", id="two levels"),
        pytest.param(
            functools.reduce(lambda deep, _: [deep], range(65), 1.0), "66 levels", id="65"
        ),
    ],
)
def test_no_number_is_more_than_a_refusal(value, said):
    document = {"inputs": {"x": [value]}}
    if not said:
        assert inputs(document, ONE)["x"].shape == (1, 1, 1)
        return
    with pytest.raises(InvalidRequestError, match=said):
        inputs(document, ONE)


def test_base64_that_is_no_ascii_is_refused():
    with pytest.raises(InvalidRequestError, match="Unable to base64 decode"):
        inputs({"instances": [{"history": [{"b64": "é"}], "k": 1}]})


def test_the_documented_requests_fit_the_models_of_the_sample():
    root = Path(__file__).parents[2]
    features = load_config(root / "tfrs_twotower" / "datasets" / "sample.yaml").query_features
    specs = {name: raw_spec(feature, name) for name, feature in features.items()}
    named = {
        name: TensorSpec(
            np.dtype(spec.dtype.as_numpy_dtype), tuple(size or -1 for size in spec.shape)
        )
        for name, spec in specs.items()
    }
    rules = {"k": np.array([10], np.int32), "exclude_ids": np.array([[b""]], object)}
    optional = {name: TensorSpec(array.dtype, (-1,) * array.ndim) for name, array in rules.items()}
    signatures = {
        "serving_default": Signature(named, {}),
        "recommend": Signature({**named, **optional}, {}, rules),
    }
    page = (root / "docs" / "reference" / "rest.md").read_text()
    bodies = re.findall(r"--data '(.*?)'", page, re.DOTALL)
    asked = [rest_json.parse(body.encode()) for body in bodies]

    assert [question.signature for question in asked] == ["recommend", "serving_default"]
    for question in asked:
        signature = signatures[question.signature]
        arrays = rest_json.to_inputs(question, signature)
        assert all(signature.inputs[name].fits(array.shape) for name, array in arrays.items())

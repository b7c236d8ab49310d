"""What is refused of a request, in words for people."""

import pytest

from tfrs_twotower.schema.requests import refusal


@pytest.mark.parametrize(
    ("details", "sentence"),
    [
        pytest.param(
            "assertion failed: [`k` must be 1 to 100, got] [101 7]",
            "`k` must be 1 to 100, got 101 7",
            id="several parts",
        ),
        pytest.param(
            "Graph execution error:\nassertion failed: [no more than one] [Condition x <= y did "
            "not hold element-wise:] [x (a:0) = ] [2]\n\t [[{{node assert/Assert}}]]",
            "no more than one",
            id="with its place in the graph",
        ),
        pytest.param("assertion failed: []", "assertion failed: []", id="nothing said"),
        pytest.param("k [5] is wrong", "k [5] is wrong", id="no assertion"),
    ],
)
def test_an_assertion_of_the_graph_is_told_as_its_sentence(details, sentence):
    assert refusal(details) == sentence

"""Requests that are merged get the answers they would get alone."""

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching import MAX_ROW_ELEMENTS, BatchingOptions
from serving.errors import InvalidRequestError
from serving.loading import load
from serving.runner import Runner
from serving.tensors import TEXT, Signature, TensorSpec
from tests.serving.conftest import wait_until
from tests.serving.toy_models import MAX_K

ONE_AT_A_TIME = BatchingOptions(num_batch_threads=1)
FLOATS = TensorSpec(np.dtype(np.float32), (-1,))
TEXTS = TensorSpec(TEXT, (-1, -1))


class Recorder:
    """Stands for a servable: answers x * factor row by row, once `gate` is open."""

    def __init__(self, signature):
        self.signatures = {"double": signature}
        self.gate = threading.Event()
        self.has_begun = False
        self.runs = []

    def run(self, signature, inputs):
        self.has_begun = True
        assert self.gate.wait(30)
        self.runs.append(inputs)
        if np.isnan(inputs["x"]).any():
            raise InvalidRequestError("x is not a number")
        return {"y": inputs["x"] * inputs.get("factor", np.ones(1, np.float32))}


@pytest.fixture
def recorder():
    signature = Signature(
        {"factor": FLOATS, "x": FLOATS}, {"y": FLOATS}, {"factor": np.array([2.0], np.float32)}
    )
    return Recorder(signature)


def run_while_one_is_running(options, servable, requests):
    """Submits requests in order, all but the first during the first one's run.

    Returns their outputs or exceptions in that order.
    """
    runner = Runner(options.num_batch_threads, len(requests), options)
    answers = []
    for inputs in requests:
        filled = {**servable.signatures["double"].defaults, **inputs}
        answers.append(runner.submit(servable, "double", filled, lambda outputs: outputs))
        wait_until(lambda: servable.has_begun)
    servable.gate.set()
    return [answer.exception(30) or answer.result() for answer in answers]


def one(*values):
    return np.array(values, np.float32)


def test_requests_that_arrive_during_a_run_are_answered_by_the_next_one(recorder):
    requests = [{"x": one(1)}, {"x": one(2)}, {"x": one(3, 4)}]

    answers = run_while_one_is_running(ONE_AT_A_TIME, recorder, requests)

    assert [answer["y"].tolist() for answer in answers] == [[2], [4], [6, 8]]
    assert [run["x"].tolist() for run in recorder.runs] == [[1], [2, 3, 4]]


def test_requests_with_other_options_are_not_merged(recorder):
    requests = [
        {"x": one(1)},
        {"x": one(2), "factor": one(10)},
        {"x": one(3)},
        {"x": one(4), "factor": one(10)},
    ]

    answers = run_while_one_is_running(ONE_AT_A_TIME, recorder, requests)

    assert [answer["y"].tolist() for answer in answers] == [[2], [20], [6], [40]]
    assert [run["x"].tolist() for run in recorder.runs] == [[1], [2, 4], [3]]


def test_a_run_has_no_more_rows_than_it_may(recorder):
    options = BatchingOptions(max_batch_size=3, num_batch_threads=1)
    requests = [{"x": one(1)}, {"x": one(2, 3)}, {"x": one(4, 5)}, {"x": one(6)}]

    answers = run_while_one_is_running(options, recorder, requests)

    assert [answer["y"].tolist() for answer in answers] == [[2], [4, 6], [8, 10], [12]]
    assert [run["x"].tolist() for run in recorder.runs] == [[1], [2, 3, 6], [4, 5]]


def test_a_run_is_filled_one_request_after_the_other_and_no_further(recorder):
    options = BatchingOptions(max_batch_size=2, num_batch_threads=1)
    requests = [{"x": one(number)} for number in range(5)]

    run_while_one_is_running(options, recorder, requests)

    assert [run["x"].tolist() for run in recorder.runs] == [[0], [1, 2], [3, 4]]


def test_requests_for_another_version_are_not_merged(recorder):
    """It has the same signature, and other answers."""
    other = Recorder(recorder.signatures["double"])
    other.gate.set()
    runner = Runner(1, 5, ONE_AT_A_TIME)
    answers = []
    for number, servable in enumerate((recorder, other, recorder, other, recorder)):
        inputs = {**recorder.signatures["double"].defaults, "x": one(number)}
        answers.append(runner.submit(servable, "double", inputs, lambda outputs: outputs))
        wait_until(lambda: recorder.has_begun)
    recorder.gate.set()

    assert [answer.result(30)["y"].tolist() for answer in answers] == [[0], [2], [4], [6], [8]]
    assert [run["x"].tolist() for run in recorder.runs] == [[0], [2, 4]]
    assert [run["x"].tolist() for run in other.runs] == [[1, 3]]


def test_the_mistake_of_one_request_is_told_to_nobody_else(recorder):
    requests = [{"x": one(1)}, {"x": one(2)}, {"x": one(float("nan"))}, {"x": one(3)}]

    answers = run_while_one_is_running(ONE_AT_A_TIME, recorder, requests)

    assert isinstance(answers.pop(2), InvalidRequestError)
    assert [answer["y"].tolist() for answer in answers] == [[2], [4], [6]]


def test_a_model_that_does_not_answer_row_by_row_is_asked_one_request_at_a_time(recorder):
    requests = [{"x": one(1)}, {"x": one(2)}, {"x": one(3)}]
    alone = recorder.run
    recorder.run = lambda *arguments: {"y": alone(*arguments)["y"].sum(keepdims=True)}

    answers = run_while_one_is_running(ONE_AT_A_TIME, recorder, requests)

    assert [answer["y"].tolist() for answer in answers] == [[2], [4], [6]]


def test_lists_of_different_lengths_are_merged_only_where_padding_is_allowed():
    signature = Signature({"words": TEXTS, "x": FLOATS}, {"y": FLOATS})
    requests = [
        {"x": one(1), "words": np.array([[b"a"]], object)},
        {"x": one(2), "words": np.array([[b"a", b"b"]], object)},
        {"x": one(3), "words": np.array([[b"c"]], object)},
    ]
    merged = {}
    for pads in (False, True):
        recorder = Recorder(signature)
        options = BatchingOptions(num_batch_threads=1, pad_variable_length_inputs=pads)
        run_while_one_is_running(options, recorder, requests)
        merged[pads] = [run["words"].tolist() for run in recorder.runs]

    assert merged[False] == [[[b"a"]], [[b"a", b"b"]], [[b"c"]]]
    assert merged[True] == [[[b"a"]], [[b"a", b"b"], [b"c", b""]]]


def test_lists_of_candidates_to_score_are_never_filled_up():
    """Or the shorter one's answer would have more columns than candidates."""
    recorder = Recorder(Signature({"candidate_ids": TEXTS, "x": FLOATS}, {"y": FLOATS}))
    lists = [[b"a"], [b"a", b"b"], [b"c"]]
    requests = [{"x": one(1), "candidate_ids": np.array([ids], object)} for ids in lists]
    options = BatchingOptions(num_batch_threads=1, pad_variable_length_inputs=True)

    run_while_one_is_running(options, recorder, requests)

    assert [run["candidate_ids"].tolist() for run in recorder.runs] == [[ids] for ids in lists]


def test_a_request_that_would_swell_a_merged_run_is_run_alone():
    signature = Signature({"words": TEXTS, "x": FLOATS}, {"y": FLOATS})
    wide = np.broadcast_to(np.array(b"a", object), (1, MAX_ROW_ELEMENTS + 1))
    options = BatchingOptions(num_batch_threads=1, pad_variable_length_inputs=True)
    recorder = Recorder(signature)
    short = np.array([[b"a"]], object)

    run_while_one_is_running(
        options, recorder, [{"x": one(n), "words": w} for n, w in enumerate((short, short, wide))]
    )

    assert [run["words"].size for run in recorder.runs] == [1, 1, MAX_ROW_ELEMENTS + 1]


@pytest.fixture(scope="module")
def toy(models_dir):
    servable = load(models_dir / "retrieval" / "3", "retrieval", 3)
    yield servable
    servable.close()


ids = st.lists(st.sampled_from(["a", "b", "c", "d", "x"]), min_size=1, max_size=2)
queries = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(["east", "north", "somebody", ""]),
        "history": st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        "k": st.sampled_from([None, 1, 2, 5, MAX_K + 1]),
        "exclude_ids": st.none() | ids,
    }
)


@settings(max_examples=40)
@given(requests=st.lists(queries, min_size=2, max_size=8), threads=st.sampled_from([1, 2]))
def test_merged_answers_are_those_of_each_request_alone(toy, requests, threads):
    options = BatchingOptions(5, threads, pad_variable_length_inputs=True)
    defaults = toy.signatures["recommend"].defaults
    inputs = [{**defaults, **as_inputs(request)} for request in requests]

    runner = Runner(threads, len(inputs), options)
    answers = [runner.submit(toy, "recommend", one, lambda outputs: outputs) for one in inputs]
    together = [outcome(answer.result) for answer in answers]

    assert together == [outcome(partial(toy.run, "recommend", one)) for one in inputs]


def as_inputs(request):
    inputs = {
        "user_id": np.array([request["user_id"].encode()], object),
        "history": np.array([[item.encode() for item in request["history"]]], object),
        "age": np.array([30], np.float32),
    }
    if request["k"] is not None:
        inputs["k"] = np.array([request["k"]], np.int32)
    if request["exclude_ids"] is not None:
        excluded = [item.encode() for item in request["exclude_ids"]]
        inputs["exclude_ids"] = np.array([excluded], object)
    return inputs


def outcome(run):
    """The outputs as lists, or the class and text of the exception."""
    try:
        return {name: array.tolist() for name, array in run().items()}
    except InvalidRequestError as error:
        return type(error), str(error)

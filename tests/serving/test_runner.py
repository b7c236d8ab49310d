"""A bounded number runs, a bounded number waits, and who leaves is not run."""

import threading

import pytest

from serving.errors import InvalidRequestError, OverloadedError
from serving.runner import Runner
from tests.serving.conftest import wait_until


class Echo:
    """Stands for a servable: answers with its inputs, once `gate` is open."""

    signatures = {}

    def __init__(self):
        self.gate, self.begun = threading.Event(), []

    def run(self, signature, inputs):
        self.begun.append(inputs["x"])
        assert self.gate.wait(30)
        if inputs["x"] < 0:
            raise InvalidRequestError("x is negative")
        return inputs


@pytest.fixture
def echo():
    return Echo()


def submit(runner, echo, x):
    return runner.submit(echo, "echo", {"x": x}, lambda outputs: f"x = {outputs['x']}")


def test_everybody_gets_what_is_made_of_his_own_outputs(echo):
    runner = Runner(num_threads=2, max_requests=10)

    answers = [submit(runner, echo, x) for x in range(10)]
    echo.gate.set()

    assert [answer.result(30) for answer in answers] == [f"x = {x}" for x in range(10)]


def test_requests_wait_their_turn_in_the_order_they_came(echo):
    runner = Runner(num_threads=1, max_requests=3)

    answers = [submit(runner, echo, x) for x in (3, 1, 2)]
    wait_until(lambda: echo.begun)
    assert echo.begun == [3]
    echo.gate.set()
    for answer in answers:
        answer.result(30)

    assert echo.begun == [3, 1, 2]


def test_no_more_run_at_once_than_there_are_threads(echo):
    runner = Runner(num_threads=2, max_requests=3)

    answers = [submit(runner, echo, x) for x in range(3)]
    wait_until(lambda: len(echo.begun) == 2)
    assert not any(answer.done() for answer in answers)
    echo.gate.set()

    assert answers[2].result(30) == "x = 2"


def test_one_too_many_is_refused_and_has_a_place_once_another_is_answered(echo):
    runner = Runner(num_threads=1, max_requests=2)
    first, second = submit(runner, echo, 1), submit(runner, echo, 2)

    with pytest.raises(OverloadedError, match="2 requests are running or waiting"):
        submit(runner, echo, 3)

    echo.gate.set()
    assert (first.result(30), second.result(30)) == ("x = 1", "x = 2")
    wait_until(lambda: runner.num_requests == 0)
    assert submit(runner, echo, 3).result(30) == "x = 3"


def test_who_leaves_while_waiting_frees_the_place_and_is_not_run(echo):
    runner = Runner(num_threads=1, max_requests=2)
    first, second = submit(runner, echo, 1), submit(runner, echo, 2)
    wait_until(lambda: echo.begun)

    assert second.cancel()
    assert runner.num_requests == 1
    third = submit(runner, echo, 3)
    echo.gate.set()

    assert (first.result(30), third.result(30)) == ("x = 1", "x = 3")
    assert echo.begun == [1, 3]


def test_a_mistake_is_told_to_its_caller_and_the_thread_goes_on(echo):
    runner = Runner(num_threads=1, max_requests=2)
    echo.gate.set()

    wrong, right = submit(runner, echo, -1), submit(runner, echo, 1)

    with pytest.raises(InvalidRequestError, match="negative"):
        wrong.result(30)
    assert right.result(30) == "x = 1"


def test_an_answer_that_cannot_be_made_is_an_error_of_its_request_alone(echo):
    runner = Runner(num_threads=1, max_requests=2)
    echo.gate.set()

    broken = runner.submit(echo, "echo", {"x": 0}, lambda outputs: 1 / outputs["x"])
    right = submit(runner, echo, 1)

    with pytest.raises(ZeroDivisionError):
        broken.result(30)
    assert right.result(30) == "x = 1"


def test_closing_waits_for_what_was_submitted(echo):
    runner = Runner(num_threads=1, max_requests=2)
    answers = [submit(runner, echo, x) for x in (1, 2)]
    threading.Timer(0.05, echo.gate.set).start()

    runner.close()

    assert all(answer.done() for answer in answers)

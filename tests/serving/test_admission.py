"""A bounded number runs, a bounded number waits."""

import threading

import pytest

from serving.admission import Admission
from serving.errors import DeadlineError, OverloadedError
from tests.serving.conftest import wait_until


def test_one_too_many_is_refused():
    admission = Admission(max_running=2, max_waiting=0)

    with (
        admission.enter(None),
        admission.enter(None),
        pytest.raises(OverloadedError),
        admission.enter(None),
    ):
        pytest.fail("a third request runs")


def test_a_place_is_free_again_after_an_error():
    admission = Admission(max_running=1, max_waiting=0)

    with pytest.raises(ZeroDivisionError), admission.enter(None):
        raise ZeroDivisionError

    with admission.enter(None):
        assert admission.num_taken == 1
    assert admission.num_taken == 0


def test_who_waits_past_the_deadline_gives_up():
    admission = Admission(max_running=1, max_waiting=1)

    with admission.enter(None):
        with pytest.raises(DeadlineError), admission.enter(0.01):
            pytest.fail("two requests run")
        assert admission.num_taken == 1


def test_who_waits_gets_the_place_that_comes_free():
    admission = Admission(max_running=1, max_waiting=1)
    ran = threading.Event()

    def wait():
        with admission.enter(10):
            ran.set()

    with admission.enter(None):
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: admission.num_taken == 2)
        assert not ran.is_set()
    waiting.join()

    assert ran.is_set()

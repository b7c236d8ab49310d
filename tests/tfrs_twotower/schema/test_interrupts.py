"""An interrupt that C code swallowed still ends what would be published."""

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tfrs_twotower.publishing.models_folder import publish
from tfrs_twotower.schema.interrupts import raise_if_interrupted, remembered


@pytest.fixture(autouse=True)
def _interruptible():
    """As a command that a person starts; processes in the background may ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _swallow_an_interrupt():
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_nothing_is_published_after_a_swallowed_interrupt(tmp_path):
    staging = tmp_path / ".incomplete"
    (staging / "retrieval").mkdir(parents=True)

    with remembered():
        _swallow_an_interrupt()
        with pytest.raises(KeyboardInterrupt):
            publish(tmp_path, staging)

    assert not (tmp_path / "retrieval").exists()


def test_an_interrupt_is_raised_where_it_happens():
    with pytest.raises(KeyboardInterrupt), remembered():
        signal.raise_signal(signal.SIGINT)


def test_a_later_command_knows_nothing_of_it():
    with remembered():
        _swallow_an_interrupt()

    with remembered():
        raise_if_interrupted()

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_interrupts_goes_on():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    with remembered():
        signal.raise_signal(signal.SIGINT)
        raise_if_interrupted()


def test_a_thread_of_its_own_leaves_the_signal_alone():
    with ThreadPoolExecutor(1) as pool, remembered():
        handler = signal.getsignal(signal.SIGINT)

        def inside():
            with remembered():
                return signal.getsignal(signal.SIGINT)

        assert pool.submit(inside).result() is handler

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is signal.default_int_handler

"""Interrupts (Ctrl-C) that are not lost.

Python raises KeyboardInterrupt in whatever runs, which may be a callback of C code or a finalizer:
those report it and go on; or a step of a Beam job, whose runner makes another error of it. So it is
remembered as well, and what other programs would see, such as a published version, is not made
after one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_was_interrupted = False


@contextmanager
def remembered() -> Iterator[None]:
    """Remembers interrupts in the block, where the process does not ignore them.

    They come to the main thread: in another one, and inside such a block, nothing is to be done.
    """
    global _was_interrupted
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        _was_interrupted = False
        signal.signal(signal.SIGINT, signal.default_int_handler)


def raise_if_interrupted() -> None:
    """Ends what an interrupt should have ended.

    Raises:
        KeyboardInterrupt: If there was one.
    """
    if _was_interrupted:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_interrupted
    _was_interrupted = True
    signal.default_int_handler(number, frame)

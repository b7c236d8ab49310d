"""Interrupts (Ctrl-C) that are not lost.

Python raises KeyboardInterrupt in whatever runs, which may be a callback of C code or a finalizer:
those report it and go on. So the command line remembers it as well, and what other programs would
see, such as a published version, is not made after one.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_was_interrupted = False


@contextmanager
def remembered() -> Iterator[None]:
    """Remembers interrupts in the block, where the process does not ignore them.

    Of the main thread alone.
    """
    global _was_interrupted
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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

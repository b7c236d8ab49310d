"""The progress of an export or a refresh, on stderr or in a notebook."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tfrs_twotower.schema.status_line import status_line

Begin = Callable[[str], None]
"""Is told what begins, and so that what was begun before has ended."""


def untold(what: str) -> None:
    """Shows nothing."""


@contextmanager
def told_steps(is_shown: bool) -> Iterator[Begin]:
    """Shows what is being done in the block; what has ended stays, with its seconds."""
    with status_line(is_shown) as line:
        at, begun_s = "", 0.0

        def begin(what: str) -> None:
            nonlocal at, begun_s
            now_s = time.monotonic()
            if at:
                line.keep(f"{at}  {now_s - begun_s:.1f} s")
            at, begun_s = what, now_s
            line.update(f"{what} ...")

        yield begin
        begin("")

"""A line that tells how far something is, on stderr or in a notebook's output.

On a terminal it changes in place, in a notebook too (without ipywidgets, which rich's own progress
needs there); elsewhere, as in a log file, only the lines that last are written.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

_INTERVAL_S = 0.2


class StatusLine:
    """See `status_line`."""

    def __init__(self, console: Console, live: Live | None, handle: Any) -> None:
        """Shows by rich's `live` or IPython's display `handle`, where there is one."""
        self._console, self._live, self._handle = console, live, handle
        self._next_s = 0.0

    def update(self, text: str, *, now: bool = True) -> None:
        """Shows a text in place of the last one.

        Args:
            text: One line.
            now: False where it changes many times a second: some are left out.
        """
        if not now and time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _INTERVAL_S
        if self._live:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif self._handle:
            self._handle.update({"text/plain": text}, raw=True)

    def keep(self, text: str) -> None:
        """Writes a line that lasts."""
        if self._handle:
            print(text, file=sys.stderr)
        else:
            self._console.print(text, soft_wrap=True)


@contextmanager
def status_line(is_shown: bool = True) -> Iterator[StatusLine]:
    """Shows a line as long as the block runs; where it is not shown nothing lasts either."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False, quiet=not is_shown)
    if is_shown and is_notebook():
        from IPython.display import display

        handle = display({"text/plain": ""}, raw=True, display_id=True)
        try:
            yield StatusLine(console, None, handle)
        finally:
            handle.update({"text/plain": ""}, raw=True)
    elif is_shown and console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield StatusLine(console, live, None)
    else:
        yield StatusLine(console, None, None)


def is_ipython() -> bool:
    """Whether this is a session of IPython, in a terminal or a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def is_notebook() -> bool:
    """Whether output goes to a notebook (Jupyter, Colab) and not to a terminal."""
    return is_ipython() and hasattr(sys.modules["IPython"].get_ipython(), "kernel")

"""How commands print: results to stdout, warnings and errors to stderr.

What is printed comes from users' data, paths and messages: brackets in it are not rich's markup,
and `:x:` is not an emoji. Hence `console`, which turns both off, and not rich's own default.
"""

import json
import sys
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfrs_twotower.schema import UserError

# Text that must give way to numbers is wrapped at about this.
WRAPPED_WIDTH = 20
# Tables in a log file are as wide as they need to be.
LOG_WIDTH = 120


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if is_terminal else LOG_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1
) -> None:
    """Prints a table to stdout; the first `left` columns are text, numbers stand to the right.

    Where there is no room for all, the last columns are left out, and named below.
    """
    to, cells = console(), [[_cell(value) for value in row] for row in rows]
    num_shown = _num_fitting(columns, cells, to.width, left)
    table = Table(title=title, title_justify="left", highlight=False)
    for position, column in enumerate(columns[:num_shown]):
        table.add_column(
            column,
            justify="left" if position < left else "right",
            no_wrap=position >= left,
            overflow="fold",
        )
    for row in cells:
        table.add_row(*row[:num_shown])
    to.print(table)
    if left_out := [name for name in columns[num_shown:] if name]:
        to.print(f"not shown, for want of width: {', '.join(left_out)}", soft_wrap=True)


def _num_fitting(
    columns: Sequence[str], cells: Sequence[Sequence[str]], width: int, left: int
) -> int:
    """How many of the first columns fit; those of text, which can wrap, always do."""
    room = width - 1  # The frame takes three a column, and one.
    for position, column in enumerate(columns):
        needed = max(cell_len(text) for text in (column, *(row[position] for row in cells)))
        room -= 3 + (min(needed, WRAPPED_WIDTH) if position < left else needed)
        if room < 0:
            return max(position, left)
    return len(columns)


def print_json(value: object) -> None:
    """Prints a result for machines."""
    print(json.dumps(value, indent=2, default=lambda other: other.tolist()))


def print_progress(message: str) -> None:
    """Prints to stderr what is being done."""
    console(stderr=True).print(message, soft_wrap=True)


def warn(message: str) -> None:
    """Prints a warning to stderr."""
    _print_marked("warning:", "bold yellow", message)


def print_error(error: UserError) -> None:
    """Prints a user's error to stderr."""
    _print_marked("error:", "bold red", error.as_command_line())


def _print_marked(mark: str, style: str, message: str) -> None:
    text = Text.assemble((mark, style), f" {message}")
    console(stderr=True).print(text, soft_wrap=True)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

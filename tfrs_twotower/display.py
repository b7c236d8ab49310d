"""Results as tables in the terminal."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tfrs_twotower.schema import UserError


# Tables in a log file are as wide as they need to be.
LOG_WIDTH = 120


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table to stdout; the first column is text, numbers stand to the right."""
    table = Table(title=title, title_justify="left", highlight=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH).print(table)


def print_metrics(report: dict[str, Any], queries: str = "all") -> None:
    """Prints the metrics of an evaluation (`Evaluation.as_dict`), one line a system."""
    systems: dict[str, dict[str, dict[str, float | None]]] = report["metrics"]
    names = list(systems["model"][queries])
    count = report["num_queries"][queries]
    title = f"{report['split']}, {queries} {count:,} queries, corpus {report['corpus_size']:,}"
    headings = [name.replace("_at_", "@").replace("_", " ") for name in names]
    rows = [
        [system, *(parts[queries][name] for name in names)] for system, parts in systems.items()
    ]
    print_table(title, ["", *headings], rows)


def warn(message: str) -> None:
    """Prints a warning to stderr."""
    Console(stderr=True).print(f"[bold yellow]warning:[/] {message}", highlight=False)


def print_error(error: UserError) -> None:
    """Prints a user's error to stderr, as it is."""
    Console(stderr=True).print("[bold red]error:[/]", end=" ")
    Console(stderr=True, markup=False, highlight=False, soft_wrap=True).print(error)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""All commands of `twotower`.

A module holds the commands of a theme; what they compute is imported when they run, so that help
and completion do not wait for TensorFlow.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tfrs_twotower.cli import INTERRUPTED, data, evaluation, publishing, serving, training, workflow
from tfrs_twotower.cli.output import print_error
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.interrupts import remembered
from tfrs_twotower.schema.version import __version__

# TensorFlow's own log lines say nothing to a user of these commands.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

# The commands as the help groups them.
PANELS = {
    "All steps": workflow,
    "Data": data,
    "Train": training,
    "Evaluate": evaluation,
    "Publish": publishing,
    "Serve and recommend": serving,
}


class _Commands(TyperGroup):
    """All commands; an interrupted one ends with a line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with remembered():
                return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print(str(interrupt) or "interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from interrupt


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Flags are written with underscores, as those of Beam and TF Serving are; hyphens do as well.
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},
)
for panel, commands in PANELS.items():
    for command in commands.app.registered_commands:
        command.rich_help_panel = panel
    app.add_typer(commands.app)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"twotower {__version__}")
        raise typer.Exit


@app.callback()
def _twotower(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """From interaction logs to a recommender behind TF Serving."""


def run(arguments: Sequence[str] | None) -> int:
    """Runs the command that the arguments name, and returns its exit code."""
    try:
        app(args=arguments, prog_name="twotower")
    except UserError as error:
        print_error(error)
        return error.exit_code
    except SystemExit as done:  # Typer's own way out, misuse included.
        return int(done.code or 0)
    return 0

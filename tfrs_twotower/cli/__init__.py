"""The `twotower` command: parses, calls, prints. Imported by nobody."""

import logging
import os
from collections.abc import Sequence

import typer

from tfrs_twotower.cli import asking, data, evaluation, publishing, training
from tfrs_twotower.cli.display import print_error
from tfrs_twotower.schema import UserError

# TensorFlow's own log lines say nothing to a user of these commands.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)

app = typer.Typer(
    help="From interaction logs to a recommender behind TF Serving.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (data, training, evaluation, publishing, asking):
    app.add_typer(commands.app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0: done, 1: failed, 2: misused."""
    try:
        app(args=arguments, prog_name="twotower")
    except UserError as error:
        print_error(error)
        return error.exit_code
    except SystemExit as done:  # Typer's own way out, misuse included.
        return int(done.code or 0)
    return 0

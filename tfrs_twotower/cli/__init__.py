"""The `twotower` command: parses, calls, prints. Imported by no other module."""

import sys
from collections.abc import Sequence

from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.extras import need

INTERRUPTED = 130  # As shells have it: 128 + SIGINT.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0: done, 1: failed, 2: misused, 130: interrupted."""
    try:
        need("all", "typer", "rich", "pydantic", "yaml")
        # Imported here, so that an interrupt in these imports ends as one in a command does.
        from tfrs_twotower.cli.commands import run

        return run(arguments)
    except UserError as error:
        print(f"error: {error.as_command_line()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED

"""The `twotower` command: parses, calls, prints. Imported by no other module."""

import sys
from collections.abc import Sequence

INTERRUPTED = 130  # As shells have it: 128 + SIGINT.


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; 0: done, 1: failed, 2: misused, 130: interrupted."""
    try:
        # Imported here, so that an interrupt in these imports ends as one in a command does.
        from tfrs_twotower.cli.commands import run

        return run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED

"""The options of all jobs; every Beam option passes through beside them.

Beam knows the options of every class in the process at once, so an option that several jobs have
stands in one class here.
"""

import functools
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    StandardOptions,
)

from pipelines import HUNG_UP
from tfrs_twotower.schema import UsageError, UserError

# Beam's own DirectRunner first tries to download another runner; this one is in the package.
IN_PROCESS_RUNNER = "FnApiRunner"
MAY_BE_FLINK = ("portablerunner", "flinkrunner")  # As the ends of names in lower case.
# Of a log, as text. What a worker sends back, about as much, waits for the end of the task; once
# 100 messages of 10 MB wait, Beam's runner stands still without a word.
FLINK_TASK_BYTES = 250_000_000
DEFAULT_MAX_REJECTED_SHARE = 0.01
INTERRUPTED = 130  # As shells have it: 128 + SIGINT.
BEAM_HELP = (
    "Every option of Apache Beam passes through too: --runner (by default the job runs in this "
    "process), --direct_num_workers, --temp_location and the others of its runners."
)


P = ParamSpec("P")


def ends_with_a_line(main: Callable[P, int]) -> Callable[P, int]:
    """Makes a command line of a user's mistake, or of an interrupt, a line and an exit code."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        threading.excepthook = _excepthook
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(error.as_command_line(), file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED

    return run


def _excepthook(args: threading.ExceptHookArgs) -> None:
    if HUNG_UP not in str(args.exc_value):
        threading.__excepthook__(args)


class OutputOptions(PipelineOptions):
    """Where a job writes."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--output", help="The folder to write.")
        parser.add_argument("--overwrite", action="store_true", help="Replace a finished folder.")


class PrepareOptions(PipelineOptions):
    """What to prepare."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--config", help="twotower.yaml")
        parser.add_argument("--dataset", help="Folder with interactions*, candidates*, queries*.")
        parser.add_argument(
            "--max_rejected_share",
            type=float,
            default=DEFAULT_MAX_REJECTED_SHARE,
            help="Share (0 to 1) of the records of interactions, of candidates or of queries that "
            "may be rejected before the job fails (default: %(default)s).",
        )
        parser.add_argument(
            "--cache",
            help="Folder in which parsed files are stored, so that a later job reads only files "
            "that have changed.",
        )
        parser.add_argument(
            "--clean",
            action="store_true",
            help="Only remove what failed or killed runs left in the output folder.",
        )


class EmbedOptions(PipelineOptions):
    """What to embed, and with which tower."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--model", help="A tower: its version folder, or the folder of those.")
        parser.add_argument("--data", help="The prepared folder.")
        parser.add_argument(
            "--side",
            default="candidate",
            choices=("candidate", "query"),
            help="Which side of the data the tower embeds (default: %(default)s).",
        )


class FlinkOptions(PipelineOptions):
    """What Beam's runner for Flink knows and its Python SDK does not."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--execution_mode_for_batch", help="How Flink exchanges data.")


def read_options(
    arguments: Sequence[str],
    program: str,
    about: str | None,
    own: type[PipelineOptions],
    required: Sequence[str],
) -> PipelineOptions:
    """Reads the command line of a job; `--help` prints the job's options and ends the program.

    Args:
        arguments: The command line.
        program: How the job was called, for messages.
        about: Its docstring, of which the help shows the first line.
        own: The options of the job beside `OutputOptions`.
        required: Names of options that must be given.

    Raises:
        UsageError: If a required option is missing.
    """
    named = " ".join(f"--{name} {name.upper()}" for name in required)
    parser: Any = ArgumentParser(  # Beam's type for it is private.
        usage=f"{program} {named} [options] [any Beam option]",
        description=(about or "").partition("\n")[0],
        epilog=BEAM_HELP,
        allow_abbrev=False,
    )
    for options in (own, OutputOptions):
        options._add_argparse_args(parser)
    given = parser.parse_known_args(arguments)[0]
    for name in required:
        if getattr(given, name) is None:
            raise UsageError(f"--{name} is missing; see `{program} --help`")
    return PipelineOptions(arguments)


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Options of a run: the in-process runner unless the arguments name one.

    On Flink an exchange of data ends before its readers begin, unless the arguments say otherwise.
    A job may then have more tasks than there are slots, which a large log needs. Flink's default
    lets both run at once wherever its optimizer sees no deadlock, and it does not see that the
    outputs of a Python worker wait for one another (FLINK-10672).
    """
    options = PipelineOptions(list(beam_args))
    standard, flink = options.view_as(StandardOptions), options.view_as(FlinkOptions)
    if standard.runner is None:
        standard.runner = IN_PROCESS_RUNNER
    elif _may_be_flink(options) and flink.execution_mode_for_batch is None:
        flink.execution_mode_for_batch = "BATCH_FORCED"
    return options


def check_flink_tasks(options: PipelineOptions, log_bytes: int) -> None:
    """Refuses a job that may stand still on Flink.

    Args:
        options: Of a run.
        log_bytes: Size of the log, as text.

    Raises:
        UsageError: If the job has fewer tasks than a log of this size needs.
    """
    needed = -(-log_bytes // FLINK_TASK_BYTES)
    given = options.view_as(FlinkRunnerOptions).parallelism  # -1: left to Flink's default, often 1.
    if _may_be_flink(options) and needed > max(given, 1):
        raise UsageError(
            f"a log of {log_bytes / 1e9:.1f} GB may stand still on Flink, where a task holds back "
            f"what it writes: pass --parallelism={needed} or more (there may be more tasks than "
            "slots)"
        )


def _may_be_flink(options: PipelineOptions) -> bool:
    return (options.view_as(StandardOptions).runner or "").lower().endswith(MAY_BE_FLINK)

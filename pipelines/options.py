"""The options of all jobs; every Beam option passes through beside them.

Beam knows the options of every class in the process at once, so an option that several jobs have
stands in one class here.
"""

from argparse import ArgumentParser
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from tfrs_twotower.schema import UsageError

# Beam's own DirectRunner first tries to download another runner; this one is in the package.
IN_PROCESS_RUNNER = "FnApiRunner"
DEFAULT_MAX_REJECTED_SHARE = 0.01


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
            "may be rejected before the job fails.",
        )


class EmbedOptions(PipelineOptions):
    """What to embed, and with which tower."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--model", help="A tower: its version folder, or the folder of those.")
        parser.add_argument("--data", help="The prepared folder.")
        parser.add_argument("--side", default="candidate", choices=("candidate", "query"))


def require(options: PipelineOptions, names: Sequence[str], job: str) -> None:
    """Checks that options are given.

    Raises:
        UsageError: If one is not.
    """
    given = options.get_all_options()
    for name in names:
        if given.get(name) is None:
            raise UsageError(f"--{name} is missing; see `python -m {job} --help`")


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Options of a run: the in-process runner unless the arguments name one."""
    named = any(arg == "--runner" or arg.startswith("--runner=") for arg in beam_args)
    return PipelineOptions([*beam_args, *([] if named else [f"--runner={IN_PROCESS_RUNNER}"])])

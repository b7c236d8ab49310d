"""The options of `python -m pipelines.prepare`; every Beam option passes through beside them."""

from argparse import ArgumentParser
from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

# Beam's own DirectRunner first tries to download another runner; this one is in the package.
IN_PROCESS_RUNNER = "FnApiRunner"
DEFAULT_MAX_REJECTED_SHARE = 0.01


class PrepareOptions(PipelineOptions):
    """What to prepare, and where."""

    @classmethod
    def _add_argparse_args(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--config", help="twotower.yaml")
        parser.add_argument("--dataset", help="Folder with interactions*, candidates*, queries*.")
        parser.add_argument("--output", help="The prepared folder to write.")
        parser.add_argument(
            "--overwrite", action="store_true", help="Replace a finished prepared folder."
        )
        parser.add_argument(
            "--max_rejected_share",
            type=float,
            default=DEFAULT_MAX_REJECTED_SHARE,
            help="Share (0 to 1) of the records of interactions, of candidates or of queries that "
            "may be rejected before the job fails.",
        )


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Options of a run: the in-process runner unless the arguments name one."""
    named = any(arg == "--runner" or arg.startswith("--runner=") for arg in beam_args)
    return PipelineOptions([*beam_args, *([] if named else [f"--runner={IN_PROCESS_RUNNER}"])])

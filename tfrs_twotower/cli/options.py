"""What several commands share: options, JSON in and out, a warning."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfrs_twotower.cli.display import warn

if TYPE_CHECKING:
    from tfrs_twotower.evaluation.evaluate import Evaluation

ConfigOption = Annotated[Path, typer.Option("--config", help="The config, twotower.yaml.")]
DataOption = Annotated[Path, typer.Option("--data", help="The prepared folder.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run folder.")]
ModelsOption = Annotated[Path, typer.Option("--models", help="The models folder.")]
OutputOption = Annotated[Path, typer.Option("--output", help="The folder to write.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished output folder.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def print_json(value: object) -> None:
    """Prints a result for machines."""
    print(json.dumps(value, indent=2, default=lambda other: other.tolist()))


def warn_if_below_popularity(evaluation: "Evaluation") -> None:
    """Says so where everybody would be served better with what is popular."""
    if evaluation.is_below_popularity:
        warn(
            "the model is below popularity: train longer, change the learning rate or the "
            "features, and do not serve it as it is"
        )

"""Options that several commands share, and how examples stand in their help."""

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[Path, typer.Option("--config", help="The config, twotower.yaml.")]
DataOption = Annotated[Path, typer.Option("--data", help="The prepared folder.")]
RunOption = Annotated[Path, typer.Option("--run", help="The run folder.")]
ModelsOption = Annotated[Path, typer.Option("--models", help="The models folder.")]
OutputOption = Annotated[Path, typer.Option("--output", help="The folder to write.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a finished output folder.")
]
OverridesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a key of the config; repeat for more."
    ),
]
SplitOption = Annotated[str, typer.Option("--split", help="train, validation or test.")]
EvaluationOption = Annotated[
    str, typer.Option("--evaluation", help="Which evaluation, as its files in the run are named.")
]
QueryOption = Annotated[
    str, typer.Option("--query", help="""JSON, for example '{"user_id": "42"}'.""")
]
LogsOption = Annotated[Path, typer.Option("--logs", help="The folder of a server's request log.")]
MaxRankOption = Annotated[
    int | None,
    typer.Option(
        "--max_rank", min=1, help="How many of an answer's candidates were shown; default: all."
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca_file", help="PEM of the authority that signed the certificate of a server with TLS."
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token_file", help="File with the token that a server asks for."),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]

# Of commands that hand their whole command line, `--help` included, to a module of their own.
PASSED_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


def examples(*commands: str) -> str:
    """The end of a command's help: lines to copy."""
    return "\n\n".join(["Examples:" if len(commands) > 1 else "Example:", *commands])

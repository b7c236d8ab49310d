"""Commands about data and the config: sample data sets, a first config, the prepared folder."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfrs_twotower.cli.dvc import FILE as DVC_FILE
from tfrs_twotower.cli.dvc import write_parts, write_stages
from tfrs_twotower.cli.options import (
    PASSED_ON,
    ConfigOption,
    JsonFlag,
    LogsOption,
    MaxRankOption,
    OutputOption,
    OverwriteOption,
    examples,
)
from tfrs_twotower.cli.output import print_json, print_table, warn
from tfrs_twotower.schema import UsageError, load_config

if TYPE_CHECKING:
    from tfrs_twotower.datasets.inspect import Inspection

app = typer.Typer()
MEANING_OF_LABEL = {1: "positive", 0: "negative", None: "rejected"}


@app.command(
    epilog=examples(
        "twotower dataset sample --output demo/dataset",
        "twotower dataset sample --drift --output drifting",
        "twotower dataset movielens-100k --source ml-100k/ --output ml/dataset",
    )
)
def dataset(
    name: Annotated[
        str,
        typer.Argument(help="sample, movielens-100k, movielens-1m, ngcf, sasrec or ncf."),
    ],
    output: OutputOption,
    source: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the original files, plain or .gz, or the file of `sasrec`; the sample "
            "needs none."
        ),
    ] = None,
    drift: Annotated[
        bool,
        typer.Option("--drift", help="Plant a drift in the sample, for `backtest`."),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a sample or public data set as a dataset folder: log, candidates, config."""
    from tfrs_twotower.datasets import write_dataset

    counts = write_dataset(name, output, source, overwrite=overwrite, drift=drift)
    if as_json:
        print_json(counts)
    else:
        print_table(f"{name} in {output}", ["", "count"], list(counts.items()))


@app.command(epilog=examples("twotower init shop/", "twotower init shop/ --query_id customer"))
def init(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Holds interactions*, optionally candidates*, queries*."
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the twotower.yaml that is there.")
    ] = False,
    query_id: Annotated[
        str | None, typer.Option("--query_id", help="Column of the users; guessed.")
    ] = None,
    candidate_id: Annotated[
        str | None, typer.Option("--candidate_id", help="Column of the items; guessed.")
    ] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the times; guessed.")] = None,
    event: Annotated[str | None, typer.Option(help="Column of event types; guessed.")] = None,
    value: Annotated[str | None, typer.Option(help="Column of ratings; guessed.")] = None,
    dvc: Annotated[
        bool, typer.Option("--dvc", help="Also write a dvc.yaml, whose stages DVC runs.")
    ] = False,
    time_format: Annotated[
        str | None,
        typer.Option(
            "--time_format", help="How times are written, such as '%d/%m/%Y %H:%M'; guessed."
        ),
    ] = None,
) -> None:
    """Inspect a log, write a commented twotower.yaml, preview the labels and the split."""
    from tfrs_twotower.datasets.inspect import inspect_dataset, write_config

    roles = {
        "query_id": query_id,
        "candidate_id": candidate_id,
        "timestamp": timestamp,
        "event": event,
        "value": value,
    }
    named = {role: column for role, column in roles.items() if column is not None}
    found = inspect_dataset(folder, roles=named, time_format=time_format)
    path = write_config(folder, found, overwrite=overwrite)
    _print_inspection(found)
    for warning in found.warnings:
        warn(warning)
    if dvc:
        log = [name for names in found.files.values() for name in names]
        write_stages(folder, log, overwrite=overwrite)
        print(f"{path} and {DVC_FILE} written: read them, correct them, then\n  dvc repro")
    else:
        print(f"{path} written: read it, correct it, then\n  twotower run {folder}")


@app.command(**PASSED_ON)
def prepare(context: typer.Context) -> None:
    """Turn a dataset folder into training data, with Apache Beam."""
    from pipelines import prepare as job

    raise typer.Exit(job.main(context.args, "twotower prepare"))


@app.command(
    epilog=examples(
        "twotower impressions --logs logs --config shop/twotower.yaml --output "
        "shop/interactions-shown.parquet --max_rank 10"
    )
)
def impressions(
    logs: LogsOption,
    config: ConfigOption,
    output: Annotated[
        Path,
        typer.Option(help="The file to write: interactions*.parquet in the dataset folder."),
    ],
    event: Annotated[
        str, typer.Option(help="The event type of the rows; label 0 by `labels.events`.")
    ] = "impression",
    max_rank: MaxRankOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Turn a server's request log into impressions, which `prepare` reads beside the clicks."""
    from tfrs_twotower import api

    written = api.impressions(
        logs, config, output, event=event, max_rank=max_rank, overwrite=overwrite
    )
    if as_json:
        print_json(dataclasses.asdict(written))
        return
    skipped = "".join(f", {count:,} {reason}" for reason, count in written.skipped.items())
    print(f"{written.num_impressions:,} impressions of {written.num_files} files{skipped}")


@app.command(
    epilog=examples(
        "twotower config > shop/twotower.yaml",
        "twotower config --config shop/twotower.yaml --output parts/",
    )
)
def config(
    config: Annotated[
        Path | None, typer.Option("--config", help="A config to check, for --output.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write, a file for each step, what it reads of --config."),
    ] = None,
) -> None:
    """Print every key of twotower.yaml with its default and its meaning."""
    if config is not None and output is not None:
        write_parts(load_config(config), output)
        return
    if config is not None or output is not None:
        raise UsageError("--config and --output go together")
    from tfrs_twotower.schema.reference import reference

    print(reference(), end="")


def _print_inspection(found: "Inspection") -> None:
    part = "" if found.is_whole_log else f"the first {found.num_rows:,} rows of "
    print_table(
        f"Looked at {part}{', '.join(found.files['interactions'])}",
        ["column", "taken for", "file"],
        [[guess.column, guess.meaning, guess.file] for guess in found.columns],
    )
    if found.first_rows:
        names = list(found.first_rows[0])
        print_table("First rows", names, [list(row.values()) for row in found.first_rows])
    print_table(
        "Labels",
        ["value", "rows", "becomes", "weight"],
        [
            [f"{label.column or ''} {label.value}", label.rows, MEANING_OF_LABEL[label.label]]
            + [label.weight]
            for label in found.labels
        ],
    )
    print_table(
        f"Split of {part}the log" if part else "Split",
        ["split", "rows", "from", "to"],
        [[part.split, part.rows, _day(part.first_s), _day(part.last_s)] for part in found.splits],
    )


def _day(second: int | None) -> str | None:
    return None if second is None else f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"

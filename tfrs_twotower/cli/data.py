"""Commands before there is a model: data sets, a config for a log of one's own."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli.display import print_table, warn
from tfrs_twotower.cli.options import (
    JsonFlag,
    OutputOption,
    OverwriteOption,
    print_json,
)

app = typer.Typer()
MEANING_OF_LABEL = {1: "positive", 0: "negative", None: "rejected"}


@app.command()
def dataset(
    name: Annotated[str, typer.Argument(help="sample, movielens-100k, movielens-1m, ngcf, ...")],
    output: OutputOption,
    source: Annotated[
        Path | None, typer.Option(help="Folder of the original files, plain or .gz.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Writes a data set as a dataset folder: a log, its candidates, a config."""
    from tfrs_twotower.datasets import write_dataset

    counts = write_dataset(name, output, source, overwrite=overwrite)
    if as_json:
        print_json(counts)
    else:
        print_table(f"{name} in {output}", ["", "count"], list(counts.items()))


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Holds interactions*, candidates*, queries*.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Looks at a log, writes a commented twotower.yaml, previews labels and split."""
    from tfrs_twotower.datasets.inspect import inspect_dataset, write_config

    seen = inspect_dataset(folder)
    path = write_config(folder, seen, overwrite=overwrite)
    part = "" if seen.is_whole_log else f"the first {seen.num_rows:,} rows of "
    print_table(
        f"Looked at {part}{', '.join(seen.files['interactions'])}",
        ["column", "taken for", "file"],
        [[guess.column, guess.meaning, guess.file] for guess in seen.columns],
    )
    if seen.first_rows:
        names = list(seen.first_rows[0])
        print_table("First rows", names, [list(row.values()) for row in seen.first_rows])
    print_table(
        "Labels",
        ["value", "rows", "becomes", "weight"],
        [
            [f"{label.column or ''} {label.value}", label.rows, MEANING_OF_LABEL[label.label]]
            + [label.weight]
            for label in seen.labels
        ],
    )
    print_table(
        "Split",
        ["split", "rows", "from", "to"],
        [[part.split, part.rows, _day(part.first_s), _day(part.last_s)] for part in seen.splits],
    )
    for warning in seen.warnings:
        warn(warning)
    print(
        f"{path} written: read it, correct it, then\n  python -m pipelines.prepare "
        f"--config {path} --dataset {folder} --output prepared"
    )


@app.command()
def config() -> None:
    """Prints every key of twotower.yaml with its default and what it says."""
    from tfrs_twotower.schema.reference import reference

    print(reference(), end="")


def _day(second: int | None) -> str | None:
    return None if second is None else f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"

"""Commands that ask served models."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli.display import print_table, warn
from tfrs_twotower.cli.options import (
    JsonFlag,
    OverwriteOption,
    print_json,
)
from tfrs_twotower.schema.requests import json_object

app = typer.Typer()


@app.command()
def recommend(
    query: Annotated[str, typer.Option(help="""JSON, for example '{"user_id": "42"}'.""")],
    models: Annotated[
        Path | None,
        typer.Option(
            help="The models folder; its stable version answers, else the newest. Beside --target "
            "it adds titles, and what is known of the query."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="host:port of a running server.")] = None,
    k: Annotated[int, typer.Option(help="How many candidates.")] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A candidate not to recommend; repeat for more.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Asks for recommendations over gRPC, of a server or of a models folder."""
    from tfrs_twotower import api

    values = json_object("--query", query)
    api.quiet_native_log()
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        answer = api.recommend(models, values, target=target, k=k, exclude_ids=exclude or ())
    for note in notes:
        if note.category is UserWarning:
            warn(str(note.message))
    if as_json:
        print_json(answer._asdict())
        return
    titles = api.titles(models) if models else {}
    shown = ["title"] if titles else []
    rows = [
        [str(rank), candidate_id, *(titles.get(candidate_id, "") for _ in shown), score]
        for rank, (candidate_id, score) in enumerate(
            zip(answer.candidate_ids, answer.scores, strict=True), 1
        )
    ]
    columns = ["", "candidate", *shown, "score"]
    print_table(f"model version {answer.model_version}", columns, rows)


@app.command()
def demo(
    dataset: Annotated[
        str, typer.Option(help="sample, movielens-100k, movielens-1m, or a dataset folder.")
    ] = "sample",
    source: Annotated[Path | None, typer.Option(help="Folder of the original files.")] = None,
    workdir: Annotated[Path, typer.Option(help="Where the folders are written.")] = Path("demo"),
    overwrite: OverwriteOption = False,
) -> None:
    """Runs every step, from a log to recommendations over gRPC."""
    from tfrs_twotower import api
    from tfrs_twotower.cli.demo import run_demo

    api.quiet_native_log()
    run_demo(dataset, source, workdir, overwrite=overwrite)

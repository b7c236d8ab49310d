"""Commands that serve models, and ask them for recommendations and embeddings."""

import dataclasses
import os
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfrs_twotower.cli.options import (
    PASSED_ON,
    CaFileOption,
    JsonFlag,
    ModelsOption,
    QueryOption,
    TokenFileOption,
    examples,
)
from tfrs_twotower.cli.output import print_json, print_table, warn
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.extras import need
from tfrs_twotower.schema.requests import json_object

if TYPE_CHECKING:
    from serving.client import Recommendations

app = typer.Typer()


@app.command(**PASSED_ON)
def serve(context: typer.Context) -> None:
    """Serve a models folder over gRPC and REST, with TF Serving's flags."""
    need("serving", "tensorflow", "tensorflow_serving", "scann")
    from serving import server

    raise typer.Exit(server.main(context.args, "twotower serve"))


@app.command(
    epilog=examples(
        """twotower recommend --models demo/models --query '{"user_id": "u0042"}' --k 5""",
        """twotower recommend --target localhost:8500 --query '{"user_id": "u0042"}'""",
    )
)
def recommend(
    query: QueryOption,
    models: Annotated[
        Path | None,
        typer.Option(
            help="The models folder; its stable version answers, else the newest. Beside --target "
            "it adds titles, and what is known of the query."
        ),
    ] = None,
    target: Annotated[str | None, typer.Option(help="host:port of a running server.")] = None,
    ca_file: CaFileOption = None,
    token_file: TokenFileOption = None,
    k: Annotated[int, typer.Option(help="How many candidates.")] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A candidate not to recommend; repeat for more.")
    ] = None,
    exclude_known: Annotated[
        bool | None,
        typer.Option(
            "--exclude_known/--allow_known",
            help="Whether to leave out all that the query already had, which the models folder "
            "knows; default: rules.exclude_known of the config.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Recommend candidates for a query, from a running server or a models folder."""
    from tfrs_twotower import api

    values = json_object("--query", query)
    api.quiet_native_log()
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        answer = api.recommend(
            models,
            values,
            target=target,
            ca_file=ca_file,
            token_file=token_file,
            k=k,
            exclude_ids=exclude or (),
            exclude_known=exclude_known,
        )
    for note in notes:
        if note.category is UserWarning:
            warn(str(note.message))
    if as_json:
        print_json(dataclasses.asdict(answer))
    else:
        _print_answer(answer, api.titles(models) if models else {})


@app.command(
    epilog=examples(
        "twotower explore --models demo/models",
        "twotower explore --models demo/models --compare 2",
    )
)
def explore(
    models: ModelsOption,
    compare: Annotated[
        int | None,
        typer.Option(metavar="VERSION", help="Another version, beside the stable or newest one."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 5006,
) -> None:
    """Open a page to look at users, recommendations and candidates; on this machine alone."""
    from tfrs_twotower import api

    _check_port(port)
    api.quiet_native_log()
    with api.explored(models, compare) as explored:
        from tfrs_twotower.evaluation.explore.server import serve_page

        serve_page(explored, port, _tell_address)


@app.command(**PASSED_ON)
def score(context: typer.Context) -> None:
    """Recommend for a file of queries, with Apache Beam."""
    from pipelines import recommend as job

    raise typer.Exit(job.main(context.args, "twotower score"))


@app.command(**PASSED_ON)
def embed(context: typer.Context) -> None:
    """Embed candidates or queries with an exported tower, with Apache Beam."""
    from pipelines import embed as job

    raise typer.Exit(job.main(context.args, "twotower embed"))


def _check_port(port: int) -> None:
    """Tells of a port that is taken before models are loaded."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise UserError(
            f"--port {port}: {os.strerror(error.errno or 0)}: give another one, or 0"
        ) from error


def _tell_address(address: str) -> None:
    # At once, also into a pipe: the server goes on.
    print(f"{address} (Ctrl+C ends)", flush=True)


def _print_answer(answer: "Recommendations", titles: Mapping[str, str]) -> None:
    shown = ["title"] if titles else []
    print_table(
        answer.title,
        ["", "candidate", *shown, "score"],
        [
            [str(rank), candidate_id, *(titles.get(candidate_id, "") for _ in shown), score]
            for rank, (candidate_id, score) in enumerate(
                zip(answer.candidate_ids, answer.scores, strict=True), 1
            )
        ],
    )

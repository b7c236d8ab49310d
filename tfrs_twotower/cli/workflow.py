"""Commands that run every step, from a dataset folder to a models folder and a server."""

from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli import steps
from tfrs_twotower.cli.options import JsonFlag, examples
from tfrs_twotower.cli.output import print_json
from tfrs_twotower.schema import UserError

app = typer.Typer()

OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace finished folders that are not as this command left them, too.",
    ),
]


@app.command(epilog=examples("twotower run shop/", "twotower run shop/ --workdir shop-model"))
def run(
    dataset: Annotated[
        Path, typer.Argument(metavar="DIR", help="A dataset folder: a log and its twotower.yaml.")
    ],
    workdir: Annotated[
        Path | None,
        typer.Option(help="Where prepared, run and models are written; default: DIR/work."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Prepare, train, evaluate and export; skip each step whose inputs have not changed."""
    folders = steps.Folders(dataset, workdir or dataset / "work")
    if not folders.config.exists():
        raise UserError(
            f"{dataset} has no {folders.config.name}: write one with `twotower init {dataset}`"
        )
    with steps.working(folders.workdir, results_to_stderr=as_json) as call:
        outcomes = steps.run_steps(
            steps.model_steps(folders), folders.workdir, call, overwrite=overwrite
        )
    if as_json:
        print_json({"models": str(folders.models), "steps": [one.as_dict() for one in outcomes]})
    else:
        steps.print_outcomes(outcomes)
        print(f"models in {folders.models}")


@app.command(
    epilog=examples(
        "twotower demo",
        "twotower demo --dataset movielens-100k --source ml-100k/",
        "twotower demo --dataset shop/",
    )
)
def demo(
    dataset: Annotated[
        str, typer.Option(help="sample, movielens-100k, movielens-1m, or a dataset folder.")
    ] = "sample",
    source: Annotated[
        Path | None, typer.Option(help="Folder of the original files; the sample needs none.")
    ] = None,
    workdir: Annotated[
        Path, typer.Option(help="Where dataset, prepared, run and models are written.")
    ] = Path("demo"),
    overwrite: OverwriteOption = False,
) -> None:
    """Run every step on a sample data set, serve the models and ask for recommendations."""
    from tfrs_twotower.cli.demo import run_demo

    run_demo(dataset, source, workdir, overwrite=overwrite)

"""Commands that run every step, from a dataset folder to a models folder and a server."""

from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli import steps
from tfrs_twotower.cli.evaluation_tables import print_backtest
from tfrs_twotower.cli.options import JsonFlag, OverridesOption, examples
from tfrs_twotower.cli.output import print_json
from tfrs_twotower.cli.workdir import locked
from tfrs_twotower.schema import UserError, load_config
from tfrs_twotower.schema.policies import DEFAULT_POLICIES, MEANINGS

app = typer.Typer()

OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Also replace finished folders that something else has changed.",
    ),
]
DatasetArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="A dataset folder: a log and its twotower.yaml.")
]


@app.command(
    epilog=examples(
        "twotower run shop/", "twotower run shop/ --workdir longer --set training.epochs=40"
    )
)
def run(
    dataset: DatasetArgument,
    overrides: OverridesOption = None,
    workdir: Annotated[
        Path | None,
        typer.Option(help="Where prepared, run and models are written; default: DIR/work."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Prepare, train, evaluate and export; skip each step whose inputs have not changed."""
    folders = _folders(dataset, workdir or dataset / "work")
    config = load_config(folders.config, overrides or [])
    with steps.working(folders.workdir, results_to_stderr=as_json) as call:
        if overrides:
            folders = steps.override(folders, config)
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


@app.command(
    epilog=examples(
        "twotower backtest shop/",
        "twotower backtest shop/ --step 1d --steps 14 --policies never,cold-7,warm,cold",
    )
)
def backtest(
    dataset: DatasetArgument,
    step: Annotated[str, typer.Option(help="The time between two decisions: 1d, 7d.")] = "7d",
    start: Annotated[
        str | None,
        typer.Option(
            help="Day of the first decision. Default: such that the steps end with the log."
        ),
    ] = None,
    num_steps: Annotated[int, typer.Option("--steps", min=1, help="How many steps.")] = 8,
    policies: Annotated[str, typer.Option(help=f"{MEANINGS}.")] = DEFAULT_POLICIES,
    k: Annotated[int, typer.Option(min=1, help="The cut-off of recall@k.")] = 10,
    warm_epochs: Annotated[
        int,
        typer.Option(
            "--warm_epochs",
            min=1,
            help="Epochs of a warm start. A cold start has those of the config.",
        ),
    ] = 2,
    workdir: Annotated[
        Path | None, typer.Option(help="The folder for all output. Default: DIR/backtest.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Replay the log under policies of retraining: recall by step, cost, and which to choose."""
    from tfrs_twotower import api

    folders = _folders(dataset, workdir or dataset / "backtest")
    with locked(folders.workdir):
        found = api.backtest(
            folders.config,
            dataset,
            folders.workdir,
            policies=policies,
            step=step,
            start=start,
            num_steps=num_steps,
            k=k,
            warm_epochs=warm_epochs,
        )
    if as_json:
        print_json(found.as_dict())
    else:
        print_backtest(found.as_dict())
        print(f"plot in {folders.workdir / 'backtest.html'}")


def _folders(dataset: Path, workdir: Path) -> steps.Folders:
    """The folders of a dataset that has a config."""
    folders = steps.Folders(dataset, workdir)
    if not folders.config.exists():
        raise UserError(
            f"{dataset} has no {folders.config.name}: write one with `twotower init {dataset}`"
        )
    return folders

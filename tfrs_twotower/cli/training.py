"""Commands that train."""

import dataclasses
import math
from pathlib import Path
from typing import Annotated

import typer

from tfrs_twotower.cli.display import print_metrics, print_table, warn
from tfrs_twotower.cli.options import (
    ConfigOption,
    DataOption,
    JsonFlag,
    OutputOption,
    OverwriteOption,
    print_json,
    warn_if_below_popularity,
)
from tfrs_twotower.cli.publishing import publish
from tfrs_twotower.schema import Config, load_config

app = typer.Typer()


@app.command()
def train(
    config: ConfigOption,
    data: DataOption,
    output: OutputOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Overrides a key: path.to.key=value."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped.")
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            "--warm_start", metavar="RUN", help="Begin with the weights of a run on earlier data."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Show the model and its memory; train nothing.")
    ] = False,
    export_to: Annotated[
        Path | None, typer.Option("--export", metavar="MODELS", help="Export to MODELS at the end.")
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Trains the two towers and keeps the best epoch."""
    from tfrs_twotower import api

    checked = load_config(config, overrides or ())
    if dry_run:
        _print_plan(checked, data, warm_start, as_json)
        return
    if checked.tells_target_by_its_absence:
        warn(
            "data without times and a query with an id and a history: the id learns all positives, "
            "and which of them the history lacks is the answer. Leave one of the two features out"
        )
    trained = api.train(
        checked, data, output, overwrite=overwrite, resume=resume, warm_start=warm_start
    )
    if trained.moved and not as_json:
        print_table(
            f"Carried over from {warm_start}",
            ["vocabulary", "kept", "new", "dropped"],
            [[name, *moved] for name, moved in trained.moved.items()],
        )
    report = trained.validation.as_dict() if trained.validation else None
    if as_json:
        moved = {name: counts._asdict() for name, counts in trained.moved.items()}
        print_json({"best_epoch": trained.best_epoch + 1, "moved": moved, "validation": report})
    elif trained.validation and report:
        print_metrics(report)
        print(f"best epoch {trained.best_epoch + 1} of {len(trained.epochs)}; run in {output}")
    else:
        warn("the validation split is empty: the last epoch was kept")
    if checked.ranks_alike_for_all:
        warn(
            "a linear `towers.context_mode: scoring_layer` ranks the candidates alike for every "
            "user and moment: give it a hidden layer, such as `towers.scoring_hidden_units: [64]`"
        )
    elif trained.validation:
        warn_if_below_popularity(trained.validation)
    if export_to is not None:
        publish(output, data, export_to, as_json)


@app.command()
def tune(
    config: ConfigOption,
    data: DataOption,
    output: OutputOption,
    trials: Annotated[
        int, typer.Option(min=1, help="How many trainings, those before a --resume included.")
    ] = 20,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Overrides a key: path.to.key=value."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a search, stopped or finished.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Searches for better settings with Optuna; `search` in the config says which."""
    from tfrs_twotower import api

    checked = load_config(config, overrides or ())
    found = api.tune(checked, data, output, num_trials=trials, overwrite=overwrite, resume=resume)
    if as_json:
        print_json([{**dataclasses.asdict(trial), "folder": str(trial.folder)} for trial in found])
        return
    paths = list(found[0].settings)
    print_table(
        f"{len(found)} trials, {checked.training.metric} on the validation split",
        ["trial", checked.training.metric, *paths, ""],
        [
            [str(trial.number), trial.value, *(trial.settings[path] for path in paths)]
            + ["stopped early" if trial.is_pruned else ""]
            for trial in found
        ],
    )
    settings = " ".join(f"--set {override}" for override in found[0].as_overrides())
    print(f"the best run is {found[0].folder}; to train it again: {settings}")


def _print_plan(config: Config, data: Path, warm_start: Path | None, as_json: bool) -> None:
    from tfrs_twotower.training.plan import plan
    from tfrs_twotower.training.warm_start import earlier_run

    if warm_start is not None:
        earlier_run(warm_start, config)
    planned = plan(config, data)
    if as_json:
        print_json(planned.as_dict())
        return
    print_table(
        f"{planned.num_parameters:,} weights",
        ["variable", "shape", "weights"],
        [
            [name, " x ".join(map(str, shape)), math.prod(shape)]
            for name, shape in planned.weights.items()
        ],
    )
    print_table(
        "Memory on one device, beside 0.6 GB of TensorFlow itself",
        ["what", "MB"],
        [[what, size / 1e6] for what, size in planned.memory_bytes.items()]
        + [["together", sum(planned.memory_bytes.values()) / 1e6]],
    )
    print(
        f"{planned.num_examples:,} examples, {planned.steps_per_epoch:,} steps an epoch, at most "
        f"{planned.max_epochs} epochs; nothing was trained"
    )

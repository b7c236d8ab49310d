"""Commands that train, and search for better settings."""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfrs_twotower.cli.evaluation_tables import print_metrics, warn_if_below_popularity
from tfrs_twotower.cli.options import (
    ConfigOption,
    DataOption,
    JsonFlag,
    OutputOption,
    OverridesOption,
    OverwriteOption,
    examples,
)
from tfrs_twotower.cli.output import print_json, print_table, warn
from tfrs_twotower.cli.publishing import print_export
from tfrs_twotower.schema import Config, load_config
from tfrs_twotower.schema.hints import training_hints

if TYPE_CHECKING:
    from tfrs_twotower.training.train import TrainingResult
    from tfrs_twotower.training.tune import TuningResult

app = typer.Typer()


@app.command(
    epilog=examples(
        "twotower train --config twotower.yaml --data demo/prepared --output demo/run",
        "twotower train ... --set training.epochs=20 --set towers.embedding_dim=64",
        "twotower train ... --resume",
    )
)
def train(
    config: ConfigOption,
    data: DataOption,
    output: OutputOption,
    overrides: OverridesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a training that was interrupted.")
    ] = False,
    warm_start: Annotated[
        Path | None,
        typer.Option(
            "--warm_start", metavar="RUN", help="Start from the weights of a run on earlier data."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry_run", help="Show the model and its memory, do not train.")
    ] = False,
    export_to: Annotated[
        Path | None,
        typer.Option("--export", metavar="MODELS", help="Export to MODELS after training."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the two towers and keep the best epoch."""
    from tfrs_twotower import api

    checked = load_config(config, overrides or ())
    if dry_run:
        _print_plan(checked, data, warm_start, as_json)
        return
    trained = api.train(
        checked, data, output, overwrite=overwrite, resume=resume, warm_start=warm_start
    )
    if as_json:
        print_json(_as_json(trained))
    else:
        _print_training(trained, warm_start)
    _warn_of_result(checked, trained)
    if export_to is not None:
        api.quiet_native_log()
        print_export(api.export(output, data, export_to), as_json)


@app.command(
    epilog=examples(
        "twotower tune --config twotower.yaml --data demo/prepared --output search --trials 30"
    )
)
def tune(
    config: ConfigOption,
    data: DataOption,
    output: OutputOption,
    trials: Annotated[
        int, typer.Option(min=1, help="How many trainings, including those before a --resume.")
    ] = 20,
    overrides: OverridesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue a search, interrupted or finished.")
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonFlag = False,
) -> None:
    """Search for better settings with Optuna; `search` in the config names their ranges."""
    from tfrs_twotower import api

    checked = load_config(config, overrides or ())
    found = api.tune(checked, data, output, num_trials=trials, overwrite=overwrite, resume=resume)
    if as_json:
        print_json(
            [{**dataclasses.asdict(trial), "folder": str(trial.folder)} for trial in found.trials]
        )
    else:
        _print_trials(found)


def _print_trials(found: "TuningResult") -> None:
    paths = list(found.best.settings)
    print_table(
        f"{len(found.trials)} trials, {found.metric} on the validation split",
        ["trial", found.metric, *paths, ""],
        [
            [str(trial.number), trial.value, *(trial.settings[path] for path in paths)]
            + ["stopped early" if trial.is_pruned else ""]
            for trial in found.trials
        ],
    )
    settings = " ".join(f"--set {override}" for override in found.best.as_overrides())
    print(f"the best run is {found.best.folder}; to train it again: {settings}")


def _as_json(trained: "TrainingResult") -> dict[str, Any]:
    return {
        "best_epoch": trained.best_epoch + 1,
        "batch_size": trained.batch_size,
        "refit_epochs": len(trained.refit_epochs),
        "moved": {name: counts._asdict() for name, counts in trained.vocabulary_changes.items()},
        "validation": trained.validation.as_dict() if trained.validation else None,
    }


def _print_training(trained: "TrainingResult", warm_start: Path | None) -> None:
    if trained.vocabulary_changes:
        print_table(
            f"Carried over from {warm_start}",
            ["vocabulary", "kept", "new", "dropped"],
            [[name, *counts] for name, counts in trained.vocabulary_changes.items()],
        )
    if trained.validation:
        print_metrics(trained.validation.as_dict())
        epoch, num_epochs = trained.best_epoch + 1, len(trained.epochs)
        print(
            f"best epoch {epoch} of {num_epochs}, in batches of {trained.batch_size:,}; "
            f"run in {trained.folder}"
        )
        if trained.refit_epochs:
            print(
                f"refit on train and validation for {epoch} epochs: the figures above are those of "
                "the first training; evaluate on the test split"
            )


def _warn_of_result(config: Config, trained: "TrainingResult") -> None:
    if trained.validation is None:
        warn("the validation split is empty: the last epoch was kept")
    for hint in training_hints(
        len(trained.epochs), trained.best_epoch, is_validated=trained.validation is not None
    ):
        warn(hint)
    if trained.validation and not config.ranking_is_query_independent:
        warn_if_below_popularity(trained.validation.is_below_popularity, trained.hints)


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
        f"{planned.num_examples:,} examples in batches of {planned.batch_size:,}: "
        f"{planned.steps_per_epoch:,} steps an epoch, at most {planned.max_epochs} epochs; "
        "nothing was trained"
    )

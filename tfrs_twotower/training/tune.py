"""Hyper-parameter search: Optuna proposes settings of the config, training evaluates them.

Each trial is a run folder of its own under `trials/`, the best of which can be evaluated and
exported as it is. Optuna keeps its state in a journal of JSON lines: a search that was killed
resumes, and proposes what an uninterrupted one would have proposed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import keras
from tfrs_twotower.models.run_folder import CONFIG_FILE, METRICS_FILE, check_same, write_inputs
from tfrs_twotower.schema import (
    Config,
    TrainingDiverged,
    UsageError,
    UserError,
    dump_config,
    parse_config,
)
from tfrs_twotower.schema.folders import MANIFEST, MARKER, output_folder, write_json
from tfrs_twotower.schema.results import Tabular
from tfrs_twotower.schema.search import Range
from tfrs_twotower.schema.version import __version__
from tfrs_twotower.training.train import train

if TYPE_CHECKING:
    import optuna

JOURNAL_FILE, TRIALS = "study.journal", "trials"
STARTUP_TRIALS = 5

Space = Mapping[str, Range | list[Any]]


def default_space(config: Config) -> Space:
    """What is searched where the config does not say: the scale of the loss is one that it has."""
    scale: Space = {"loss.temperature": Range(low=0.03, high=0.3, log=True)}
    if config.loss.kind == "margin":
        scale = {"loss.margin": Range(low=0.1, high=1.0)}
    return {
        "training.learning_rate": Range(low=0.0003, high=0.03, log=True),
        **scale,
        "towers.embedding_dim": [16, 32, 64],
    }


@dataclass(frozen=True)
class Trial:
    """One set of settings and its result.

    Attributes:
        number: From 0, in the order of the trials.
        settings: By path.to.key of the config.
        value: The best `training.metric` on the validation split; 0 where training diverged.
        is_pruned: Whether it was stopped early, being behind the median of the earlier ones.
        folder: Its run folder.
    """

    number: int
    settings: dict[str, Any]
    value: float
    is_pruned: bool
    folder: Path

    def as_overrides(self) -> list[str]:
        """The settings as `--set` takes them."""
        return [f"{path}={_as_yaml(value)}" for path, value in self.settings.items()]

    def in_words(self, metric: str) -> str:
        """One line: its value of the metric, and its settings."""
        early = ", stopped early" if self.is_pruned else ""
        settings = " ".join(self.as_overrides())
        return f"trial {self.number}: {metric} {self.value:.4f}{early}  {settings}"


@dataclass(frozen=True, repr=False)
class TuningResult(Tabular):
    """The trials of a hyper-parameter search, best first; `metric` is what they are judged by."""

    trials: tuple[Trial, ...]
    metric: str

    @property
    def best(self) -> Trial:
        """The trial with the highest value."""
        return self.trials[0]

    @property
    def title(self) -> str:
        """How many trials, and by what they are ordered."""
        return f"{len(self.trials)} trials by {self.metric} on the validation split"

    def to_frame(self) -> pd.DataFrame:
        """A row a trial: its value, its settings, whether it was stopped early."""
        rows = [
            {self.metric: trial.value, **trial.settings, "is_pruned": trial.is_pruned}
            for trial in self.trials
        ]
        index = pd.Index([trial.number for trial in self.trials], name="trial")
        return pd.DataFrame(rows, index=index)


def tune(
    config: Config,
    data: str | Path,
    output: str | Path,
    *,
    num_trials: int = 20,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_trial: Callable[[Trial], None] | None = None,
) -> TuningResult:
    """Searches for better settings: trains with those that Optuna proposes.

    Args:
        config: What is not searched stays as it is; what is, is in `search`, else `default_space`.
        data: The prepared folder.
        output: The folder of the search.
        num_trials: How many, those of before a `resume` included.
        overwrite: Whether a finished search may be replaced.
        resume: Whether to continue the search in the folder, finished or not.
        callbacks: Further Keras callbacks of every training.
        on_trial: Called with each trial as it ends.

    Raises:
        UsageError: If Optuna is not installed, or the space does not fit the config.
        UserError: If the data is unusable.
    """
    optuna = _optuna()
    space = config.search or default_space(config)
    _check_space(config, space)
    if resume and (Path(output) / MANIFEST).exists():
        (Path(output) / MARKER).touch()
        (Path(output) / MANIFEST).unlink()
    with output_folder(output, overwrite=overwrite, resume=resume) as folder:
        _check_same(folder, PreparedData(data, config))
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL_FILE))
        )
        study = optuna.create_study(
            study_name="twotower",
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=1),
            load_if_exists=True,
        )
        for killed in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(killed.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(killed.params)
        while (done := len(_finished(study))) < num_trials:
            # A sampler of its own for each trial: a resumed search draws the same.
            study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP_TRIALS, seed=config.training.seed + done
            )
            _run_trial(study, config, space, data, folder, callbacks)
            if on_trial is not None:
                on_trial(_as_trial(_finished(study)[-1], Path(output)))
        write_json(folder / MANIFEST, {"kind": "search", "code_version": __version__})
    trials = [_as_trial(trial, Path(output)) for trial in _finished(study)]
    trials.sort(key=lambda trial: (trial.is_pruned, -trial.value, trial.number))
    return TuningResult(tuple(trials), config.training.metric)


class _Report(keras.callbacks.Callback):
    """Reports each epoch to Optuna, and stops a trial that is behind the others."""

    def __init__(self, trial: "optuna.Trial", metric: str) -> None:
        super().__init__()
        self._trial, self._log = trial, f"val_{metric}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        import optuna

        if self._log not in logs:
            raise UserError("the validation split is empty: there is nothing to judge trials by")
        self._trial.report(logs[self._log], epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _run_trial(
    study: "optuna.Study",
    config: Config,
    space: Space,
    data: str | Path,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    import optuna

    trial = study.ask()
    metric = config.training.metric
    proposed = {path: _propose(trial, path, values) for path, values in space.items()}
    run = folder / TRIALS / str(trial.number)
    report = _Report(trial, metric)
    keras.backend.clear_session()
    try:
        # A refit has no validation of its own: the settings that are found are refit, not a trial.
        trial_config = _with(config, {**proposed, "training.refit": False})
        train(trial_config, data, run, overwrite=True, callbacks=[report, *callbacks])
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except TrainingDiverged:
        study.tell(trial, 0.0)
    else:
        epochs = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["epochs"]
        study.tell(trial, max(epoch[f"val_{metric}"] for epoch in epochs))


def _finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    import optuna

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def _as_trial(trial: "optuna.trial.FrozenTrial", output: Path) -> Trial:
    import optuna

    is_pruned = trial.state == optuna.trial.TrialState.PRUNED
    value = max(trial.intermediate_values.values()) if is_pruned else float(trial.value or 0.0)
    folder = output / TRIALS / str(trial.number)
    return Trial(trial.number, dict(trial.params), value, is_pruned, folder)


def _propose(trial: "optuna.Trial", path: str, values: Range | list[Any]) -> Any:
    if isinstance(values, list):
        return trial.suggest_categorical(path, values)
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(path, values.low, values.high, log=values.log)
    return trial.suggest_float(path, values.low, values.high, log=values.log)


def _with(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with other settings, checked like any."""
    overrides = [f"{path}={_as_yaml(value)}" for path, value in settings.items()]
    return parse_config(dump_config(config), "search", overrides)


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _check_space(config: Config, space: Space) -> None:
    """Checks both ends of each range before the first trial, not hours later."""
    for path, values in space.items():
        if isinstance(values, list) and not values:
            raise UsageError(f"`search.{path}`: an empty list")
        for value in values if isinstance(values, list) else (values.low, values.high):
            if not isinstance(value, str | int | float | bool | None):
                raise UsageError(f"`search.{path}`: {value!r} is no single value")
            if _with(config, {path: value}).record_schema() != config.record_schema():
                raise UsageError(
                    f"`search.{path}` changes what is prepared; prepare the data with each value "
                    "and search in each"
                )


def _check_same(folder: Path, data: PreparedData) -> None:
    """Records the inputs of a new search, or checks that a resumed one has the same."""
    if (folder / CONFIG_FILE).exists():
        check_same(folder, data)
    else:
        write_inputs(folder, data)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "`twotower tune` needs Optuna: pip install -e '.[tune]' in the clone"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna

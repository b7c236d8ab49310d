"""Training: a config and a prepared folder -> a run folder."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tfrs_twotower.data.batches import steps_per_epoch, training_batches
from tfrs_twotower.data.prepared import Arrays, Corpus, PreparedData
from tfrs_twotower.evaluation.aggregate import evaluate_model
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.result import Evaluation
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.projector import write_projector
from tfrs_twotower.models.run_folder import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    METRICS_FILE,
    REFIT,
    TENSORBOARD,
    build_model,
    check_same,
    write_inputs,
)
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json
from tfrs_twotower.schema.hints import config_hints, data_hints
from tfrs_twotower.schema.results import Tabular
from tfrs_twotower.schema.version import __version__
from tfrs_twotower.training.callbacks import KeepBest, MeanLossAndNaNGuard, RankingValidation
from tfrs_twotower.training.distribution import (
    distributed,
    is_chief,
    make_strategy,
    mean_across_workers,
    report_lost_workers,
)
from tfrs_twotower.training.mining import mine, mined_negatives, segments
from tfrs_twotower.training.optimizers import make_optimizer
from tfrs_twotower.training.smoothing import GraphSmoothing
from tfrs_twotower.training.warm_start import (
    EarlierRun,
    VocabularyChanges,
    carry_over,
    earlier_run,
)

# Keras' callback writes its events of training there.
EVENTS = f"{TENSORBOARD}/train"
REFIT_ON = "train and validation"
# More points than this make TensorBoard's projector slow in a browser.
MAX_PROJECTED = 10_000


@dataclass(frozen=True, repr=False)
class TrainingResult(Tabular):
    """The result of a training run.

    Attributes:
        folder: The run folder.
        epochs: The logs of each epoch: its number from 0, `loss`, `val_<metric>`.
        best_epoch: The epoch whose weights are kept, from 0.
        batch_size: Examples of a step.
        validation: The best epoch beside the baselines; None where nothing could be validated on.
        refit_epochs: The logs of the epochs of the refit on train and validation, whose weights
            are those of the run; empty without one.
        vocabulary_changes: By vocabulary, what a warm start carried over; empty without one, and
            after a resume.
        hints: What the config and the data suggest to change, see `tfrs_twotower.schema.hints`.
    """

    folder: Path
    epochs: list[dict[str, float]]
    best_epoch: int
    batch_size: int
    validation: Evaluation | None
    refit_epochs: list[dict[str, float]] = field(default_factory=list)
    vocabulary_changes: dict[str, VocabularyChanges] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    @property
    def is_still_improving(self) -> bool:
        """Whether the last of several epochs was the best one."""
        is_last = self.best_epoch == len(self.epochs) - 1 > 0
        return is_last and self.validation is not None

    @property
    def title(self) -> str:
        """The run folder and its best epoch."""
        of_all = f"best epoch {self.best_epoch + 1} of {len(self.epochs)}"
        improving = ", still improving: train longer" if self.is_still_improving else ""
        refit = f", refit on {REFIT_ON}" if self.refit_epochs else ""
        return f"Training run in {self.folder}: {of_all}{improving}{refit}"

    def to_frame(self) -> pd.DataFrame:
        """The logs: a row an epoch, counted from 1."""
        logs = pd.DataFrame(self.epochs)
        logs.index = pd.RangeIndex(1, 1 + len(logs), name="epoch")
        return logs.drop(columns="epoch", errors="ignore")


@dataclass(frozen=True)
class _Inputs:
    """What a training reads; `evaluation_set`: the validation split, None where it is empty."""

    data: PreparedData
    examples: Arrays
    corpus: Corpus
    evaluation_set: EvaluationSet | None

    @property
    def is_refit(self) -> bool:
        """Whether validation is part of what is trained on."""
        return "validation" in self.data.training_splits

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(self.data.num_examples, self.data.batch_size)


def train(
    config: Config,
    data: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    warm_start: str | Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> TrainingResult:
    """Trains a two-tower model with Keras and keeps the best epoch.

    With `training.refit` it then trains once more from the start, on train and validation, as many
    epochs as were best, and keeps the last.

    Several workers (`training.distribution: multi_worker`) all call this, with folders that all of
    them see; the chief writes.

    Args:
        config: Must describe the data.
        data: The prepared folder.
        output: The run folder to write.
        overwrite: Whether a finished run folder may be replaced.
        resume: Whether to resume an unfinished training in the folder; it ends with the weights of
            an uninterrupted one.
        warm_start: A finished run of the same features and towers, on earlier data, whose weights
            to start from; see `tfrs_twotower.training.warm_start`.
        callbacks: Further Keras callbacks, for example to show progress; they see
            `val_<metric>` in the logs.

    Raises:
        UserError: If the data is unusable, the training diverges, or a worker is lost.
    """
    strategy = make_strategy(config.training)  # First: several workers need a fresh TensorFlow.
    earlier = earlier_run(warm_start, config) if warm_start is not None else None
    inputs = _read(data, config)
    config = inputs.data.config  # With the batch size that follows from the examples.
    claimed = output_folder(output, overwrite=overwrite, resume=resume)
    writes = is_chief(strategy)
    with (
        report_lost_workers(strategy),
        claimed if writes else nullcontext(Path(output)) as folder,
    ):
        with _chief_first(strategy):
            _begin(folder, inputs.data, earlier)
        trained = _train(inputs, config.training.epochs, strategy, folder, earlier, callbacks)
        embeddings = embed(trained.model.candidate_tower, inputs.corpus.features)
        result = TrainingResult(
            folder=Path(output),
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            batch_size=inputs.data.batch_size,
            validation=_validate(trained.model, inputs, embeddings),
            vocabulary_changes=trained.vocabulary_changes,
            hints=[*config_hints(config), *data_hints(config, inputs.data.manifest)],
        )
        if config.training.refit:
            inputs = _with_validation(inputs)
            num_epochs = result.best_epoch + 1
            if writes:
                (folder / REFIT).mkdir(exist_ok=True)
            trained = _train(inputs, num_epochs, strategy, folder / REFIT, earlier, callbacks)
            embeddings = embed(trained.model.candidate_tower, inputs.corpus.features)
            result = dataclasses.replace(result, refit_epochs=trained.epochs)
        if writes:
            _write_projector(folder / EVENTS, inputs, embeddings)
            _finish(folder, result, config)
    return result


class _Trained(NamedTuple):
    """A model with the weights of its best epoch, and how it came to them."""

    model: TwoTowerModel
    epochs: list[dict[str, float]]
    best_epoch: int
    vocabulary_changes: dict[str, VocabularyChanges]


def _train(
    inputs: _Inputs,
    max_epochs: int,
    strategy: tf.distribute.Strategy,
    folder: Path,
    earlier: EarlierRun | None,
    callbacks: Sequence[keras.callbacks.Callback],
) -> _Trained:
    """Trains a fresh model, or one from its last checkpoint in the folder."""
    training = inputs.data.config.training
    # For what draws without a seed of its own, such as layers of a user's own towers.
    keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        model = build_model(inputs.data)
        model.compile(optimizer=make_optimizer(training, max_epochs * inputs.steps_per_epoch))
    # Each replica reports the loss of the whole batch; Keras would sum the replicas'.
    model.distribute_reduction_method = "first"
    # For callbacks that show progress.
    model.epoch_name = "refit epoch" if inputs.is_refit else "epoch"
    model.max_epochs = max_epochs
    keep_best = KeepBest(
        folder,
        monitor=f"val_{training.metric}" if inputs.evaluation_set else None,
        patience=training.patience,
        writes=is_chief(strategy),
    )
    changes = carry_over(earlier, model, inputs.data) if earlier else {}
    with strategy.scope():  # Makes the optimizer's variables.
        keep_best.restore(model)
    _fit(model, inputs, strategy, keep_best, folder, callbacks)
    mean_across_workers(strategy, 0.0)  # Waits until the chief has written the best weights.
    tf.train.Checkpoint(model=model).read(str(folder / BEST_WEIGHTS)).expect_partial()
    return _Trained(model, keep_best.epochs, keep_best.best_epoch, changes)


def _read(folder: str | Path, config: Config) -> _Inputs:
    data = PreparedData(folder, config)
    examples = data.examples_to_train()
    num_positives = int((examples[layout.LABEL] == 1).sum())
    if num_positives < 2:
        raise UserError(
            f"{folder}: the train split has {num_positives} positive examples, a softmax needs at "
            "least 2: bring more data, or change `split` or `labels`"
        )
    validates = data.manifest["counts"]["examples"]["validation"]["positives"]
    if config.training.refit and not validates:
        raise UserError(
            f"{folder}: `training.refit` trains on {REFIT_ON}, and the validation split has no "
            "positive: give it a share in `split`, or leave `refit` out"
        )
    evaluation_set = load_evaluation_set(data, "validation") if validates else None
    return _Inputs(data, examples, data.corpus(), evaluation_set)


def _with_validation(inputs: _Inputs) -> _Inputs:
    """The inputs of the refit, which has nothing left to validate on."""
    data = inputs.data.with_validation_in_training()
    return _Inputs(data, data.examples_to_train(), data.corpus(), None)


def _begin(folder: Path, data: PreparedData, earlier: EarlierRun | None) -> None:
    """Records the inputs of a new run, or checks that a resumed run has the same."""
    began_from = earlier.digest if earlier else None
    if (folder / CONFIG_FILE).exists():
        check_same(folder, data, began_from)
    else:
        write_inputs(folder, data, began_from)


def _fit(
    model: keras.Model,
    inputs: _Inputs,
    strategy: tf.distribute.Strategy,
    keep_best: KeepBest,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Trains the epochs that are left, and mines negatives between them where configured."""
    config = inputs.data.config
    left = range(keep_best.finished_epochs, model.max_epochs)
    metric = config.training.metric
    validation = (
        [RankingValidation(inputs.evaluation_set, inputs.corpus, metric, strategy)]
        if inputs.evaluation_set
        else []
    )
    smoothing = (
        [GraphSmoothing(config, inputs.examples, inputs.corpus)]
        if config.training.graph_smoothing
        else []
    )
    events = keras.callbacks.TensorBoard(str(folder / TENSORBOARD), write_graph=False)

    def mine_now() -> np.ndarray:
        return mine(model, inputs.examples, inputs.corpus, config.loss.mine_from)

    for epochs in segments(left, config.loss):
        if keep_best.is_over:
            return
        with _chief_first(strategy):
            mined = mined_negatives(epochs.start, config.loss, folder, mine_now)

        def batches(epochs: range = epochs, mined: np.ndarray | None = mined) -> tf.data.Dataset:
            return training_batches(inputs.examples, inputs.corpus, config, epochs, mined)

        model.fit(
            distributed(strategy, batches),
            epochs=epochs.stop,
            initial_epoch=epochs.start,
            steps_per_epoch=inputs.steps_per_epoch,
            verbose=0,
            callbacks=[
                MeanLossAndNaNGuard(),
                *smoothing,
                *validation,
                *([events] if is_chief(strategy) else []),
                keep_best,
                *callbacks,
            ],
        )


@contextmanager
def _chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Runs the block in the chief before the others, which read what it writes."""
    if not is_chief(strategy):
        mean_across_workers(strategy, 0.0)
    yield
    if is_chief(strategy):
        mean_across_workers(strategy, 0.0)


def _validate(
    model: TwoTowerModel, inputs: _Inputs, candidates: npt.NDArray[np.float32]
) -> Evaluation | None:
    """Evaluates the best epoch; None where the validation split is empty."""
    if inputs.evaluation_set is None:
        return None
    return evaluate_model(
        EvaluationInputs(model, inputs.data, inputs.corpus, inputs.evaluation_set, candidates)
    )


def _write_projector(folder: Path, inputs: _Inputs, embeddings: npt.NDArray[np.float32]) -> None:
    """The most frequent candidates for TensorBoard, coloured by title, attributes and count."""
    counts = inputs.corpus.train_counts
    rows = np.sort(np.argsort(-counts, kind="stable")[:MAX_PROJECTED])
    attributes = inputs.data.candidate_table().take(rows)
    attributes = attributes.append_column("train_count", pa.array(counts[rows]))
    write_projector(attributes, embeddings[rows], folder)


def _finish(folder: Path, result: TrainingResult, config: Config) -> None:
    write_json(
        folder / METRICS_FILE,
        {
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "refit_epochs": result.refit_epochs,
            "moved": {name: one._asdict() for name, one in result.vocabulary_changes.items()},
            "validation": result.validation.as_dict() if result.validation else None,
            "hints": result.hints,
        },
    )
    write_json(
        folder / MANIFEST,
        {
            "kind": "run",
            "code_version": __version__,
            "schema_fingerprint": config.fingerprint(),
            "tensorflow": tf.__version__,
        },
    )

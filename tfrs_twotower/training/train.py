"""Training: prepared data and a config in, a run folder out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfrs_twotower import __version__
from tfrs_twotower.data.batches import steps_per_epoch, training_batches, training_examples
from tfrs_twotower.data.prepared import Arrays, Corpus, PreparedData
from tfrs_twotower.evaluation.evaluate import Evaluation, evaluate_model
from tfrs_twotower.evaluation.protocols import EvaluationSet, evaluation_set
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    METRICS_FILE,
    TENSORBOARD,
    build_model,
    check_same,
    write_inputs,
)
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json
from tfrs_twotower.training.callbacks import KeepBest, RankingValidation, WatchLoss
from tfrs_twotower.training.distribution import (
    agreed,
    distributed,
    is_chief,
    lost_workers_are_told,
    make_strategy,
)
from tfrs_twotower.training.mining import mine, mined_negatives, segments
from tfrs_twotower.training.optimizers import make_optimizer
from tfrs_twotower.training.projector import write_projector
from tfrs_twotower.training.warm_start import EarlierRun, Moved, carry_over, earlier_run

# Keras' callback writes its events of training there.
EVENTS = f"{TENSORBOARD}/train"


@dataclass(frozen=True)
class Training:
    """What a training came to.

    `epochs`: the logs of each epoch; `best_epoch`: from 0; `validation`: the best epoch beside the
    baselines, None where there is nothing to validate on; `moved`: what a warm start carried over,
    by vocabulary, empty where none was asked for or the training was resumed.
    """

    folder: Path
    epochs: list[dict[str, float]]
    best_epoch: int
    validation: Evaluation | None
    moved: dict[str, Moved] = field(default_factory=dict)


@dataclass(frozen=True)
class _Inputs:
    """What a training reads."""

    data: PreparedData
    examples: Arrays
    corpus: Corpus
    asked: EvaluationSet | None

    @property
    def num_examples(self) -> int:
        """Examples that an epoch steps through."""
        return len(training_examples(self.examples, self.data.config)[layout.LABEL])

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(self.num_examples, self.data.config.training.batch_size)


def train(
    config: Config,
    data: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    warm_start: str | Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Training:
    """Trains a two-tower model with Keras and keeps the best epoch.

    Several workers (`training.distribution: multi_worker`) all call this, with folders that all of
    them see; the chief writes.

    Args:
        config: Must describe the data.
        data: The prepared folder.
        output: The run folder to write.
        overwrite: Whether a finished run folder may be replaced.
        resume: Whether an unfinished training in the folder is gone on with; it ends where an
            uninterrupted one ends.
        warm_start: A finished run of the same features and towers, on earlier data, whose weights
            to begin with; see `tfrs_twotower.training.warm_start`.
        callbacks: Further Keras callbacks, for example to show progress; they see
            `val_<metric>` in the logs.

    Raises:
        UserError: If the data does not serve, the training diverges, or a worker is lost.
    """
    strategy = make_strategy(config.training)
    earlier = earlier_run(warm_start, config) if warm_start is not None else None
    inputs = _read(data, config)
    claimed = output_folder(output, overwrite=overwrite, resume=resume)
    writes = is_chief(strategy)
    with (
        lost_workers_are_told(strategy),
        claimed if writes else nullcontext(Path(output)) as folder,
    ):
        with _chief_first(strategy):
            _begin(folder, inputs.data, earlier)
        # What draws without a seed of its own, such as layers of a user's own towers.
        keras.utils.set_random_seed(config.training.seed)
        with strategy.scope():
            model = build_model(inputs.data)
            model.compile(optimizer=make_optimizer(config.training, inputs.steps_per_epoch))
        # Each replica reports the loss of the whole batch; Keras would sum them.
        model.distribute_reduction_method = "first"
        keep_best = KeepBest(
            folder,
            monitor=f"val_{config.training.metric}" if inputs.asked else None,
            patience=config.training.patience,
            writes=writes,
        )
        moved = carry_over(earlier, model, inputs.data) if earlier else {}
        with strategy.scope():  # It makes the optimizer's variables.
            keep_best.restore(model)
        _fit(model, inputs, strategy, keep_best, folder, callbacks)
        agreed(strategy, 0.0)  # The chief has written the best weights.
        tf.train.Checkpoint(model=model).read(str(folder / BEST_WEIGHTS)).expect_partial()
        validation = None
        if inputs.asked:
            validation = evaluate_model(
                model, inputs.data, inputs.asked, split="validation", unit="user"
            )
        result = Training(Path(output), keep_best.epochs, keep_best.best_epoch, validation, moved)
        if writes:
            embeddings = embed(model.candidate_tower, inputs.corpus.features)
            write_projector(folder / EVENTS, embeddings, inputs.corpus, inputs.data)
            _finish(folder, result, config)
    return result


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
    asked = evaluation_set(data, "validation") if validates else None
    return _Inputs(data, examples, data.corpus(), asked)


def _begin(folder: Path, data: PreparedData, earlier: EarlierRun | None) -> None:
    """Writes down what the run is of, or checks that it is the one that was begun."""
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
    """Trains what is left of the epochs, and mines negatives between them where asked for."""
    config = inputs.data.config
    left = range(keep_best.finished_epochs, config.training.epochs)
    metric = config.training.metric
    validation = (
        [RankingValidation(inputs.asked, inputs.corpus, metric, strategy)] if inputs.asked else []
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
                WatchLoss(),
                *validation,
                *([events] if is_chief(strategy) else []),
                keep_best,
                *callbacks,
            ],
        )


@contextmanager
def _chief_first(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """The other workers read what the chief writes."""
    if not is_chief(strategy):
        agreed(strategy, 0.0)
    yield
    if is_chief(strategy):
        agreed(strategy, 0.0)


def _finish(folder: Path, result: Training, config: Config) -> None:
    write_json(
        folder / METRICS_FILE,
        {
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            "moved": {name: moved._asdict() for name, moved in result.moved.items()},
            "validation": result.validation.as_dict() if result.validation else None,
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

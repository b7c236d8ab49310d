"""Callbacks at the end of an epoch: a ranking metric, the best weights, a checkpoint."""

import json
import math
from pathlib import Path

from tfrs_twotower.data.prepared import Corpus
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.inputs import rank_model
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.run_folder import BEST_WEIGHTS, CHECKPOINTS, METRICS_FILE
from tfrs_twotower.schema import TrainingDiverged
from tfrs_twotower.schema.folders import write_json
from tfrs_twotower.training.distribution import mean_across_workers

Logs = dict[str, float]


class RankingValidation(keras.callbacks.Callback):
    """Adds `val_<metric>` over the whole corpus to the logs of an epoch.

    Must come before the callbacks that read the logs.
    """

    def __init__(
        self,
        evaluation_set: EvaluationSet,
        corpus: Corpus,
        metric: str,
        strategy: tf.distribute.Strategy | None = None,
    ) -> None:
        """Validates by a metric; see `metrics.by_name`.

        Args:
            evaluation_set: The queries.
            corpus: The candidates.
            metric: Its name.
            strategy: Whose workers all get the mean of their values, so that they stop together.
        """
        super().__init__()
        self._evaluation_set, self._corpus, self._metric = evaluation_set, corpus, metric
        self._strategy = strategy or tf.distribute.get_strategy()

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Ranks the corpus for every validation query."""
        ranking = rank_model(self.model, self._corpus, self._evaluation_set)
        queries = self._evaluation_set.positives.queries
        value = float(metrics.by_name(self._metric, queries, ranking.ranks).mean())
        logs[f"val_{self._metric}"] = mean_across_workers(self._strategy, value)


class MeanLossAndNaNGuard(keras.callbacks.Callback):
    """Logs the mean loss over the steps of an epoch, and stops at a loss that is not finite.

    Keras would log the last step of a `tfrs.Model`. Must come first among the callbacks.
    """

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Resets the mean."""
        self._epoch, self._sum, self._steps = epoch, 0.0, 0

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """Adds a step to the mean."""
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged.because(f"the loss in epoch {self._epoch + 1} is {logs['loss']}")
        self._sum, self._steps = self._sum + float(logs["loss"]), self._steps + 1

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Replaces the losses of the last step in the logs."""
        logs["loss"] = self._sum / self._steps
        for of_last_step in ("total_loss", "regularization_loss"):
            logs.pop(of_last_step, None)


class KeepBest(keras.callbacks.Callback):
    """Keeps the best weights, stops early, and can resume after a kill.

    Replaces Keras' EarlyStopping, ModelCheckpoint and BackupAndRestore, whose own state is in no
    checkpoint: after a resume they no longer know which epoch was the best.
    """

    def __init__(
        self, folder: Path, *, monitor: str | None, patience: int, writes: bool = True
    ) -> None:
        """Sets the state of a new training run.

        Args:
            folder: The run folder.
            monitor: The log to maximise; None keeps the last epoch.
            patience: Epochs without a better value before training stops.
            writes: Whether to write the folder; of several workers one does.
        """
        super().__init__()
        self._writes = writes
        self._folder, self._monitor, self._patience = folder, monitor, patience
        self._finished_epochs = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._best = tf.Variable(-math.inf, dtype=tf.float64, trainable=False)
        self._best_epoch = tf.Variable(-1, dtype=tf.int64, trainable=False)
        self.epochs: list[Logs] = []

    def restore(self, model: keras.Model) -> None:
        """Restores the last checkpoint of the folder, if there is one.

        Must be called before `fit`: it decides what checkpoints hold, which is the model, its
        optimizer and this callback's state.
        """
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            finished_epochs=self._finished_epochs,
            best=self._best,
            best_epoch=self._best_epoch,
        )
        # All workers create it here: the one that saves could not create a shared variable alone.
        _ = checkpoint.save_counter
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(self._folder / CHECKPOINTS), max_to_keep=1
        )
        if self._manager.restore_or_initialize():
            written = json.loads((self._folder / METRICS_FILE).read_text(encoding="utf-8"))
            self.epochs = written["epochs"][: self.finished_epochs]

    @property
    def finished_epochs(self) -> int:
        """How many epochs are finished."""
        return int(self._finished_epochs)

    @property
    def best_epoch(self) -> int:
        """The epoch of the best weights, from 0."""
        return int(self._best_epoch)

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` epochs were no better."""
        return self.finished_epochs - 1 - self.best_epoch >= self._patience

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Keeps or drops the epoch's weights, then writes a checkpoint."""
        value = float(epoch) if self._monitor is None else logs[self._monitor]
        if value > float(self._best):
            self._best.assign(value)
            self._best_epoch.assign(epoch)
            if self._writes:
                tf.train.Checkpoint(model=self.model).write(str(self._folder / BEST_WEIGHTS))
        self.epochs.append({"epoch": epoch, **{name: float(log) for name, log in logs.items()}})
        self._finished_epochs.assign(epoch + 1)
        if self._writes:
            write_json(self._folder / METRICS_FILE, {"epochs": self.epochs})
            self._manager.save()
        if self.is_over:
            self.model.stop_training = True

"""Training: prepared data and a config in, a run folder out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfrs_twotower import __version__
from tfrs_twotower.callbacks import KeepBest, RankingValidation
from tfrs_twotower.data import PreparedData, steps_per_epoch, training_batches
from tfrs_twotower.evaluate import Evaluation, evaluate_model
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.optimizers import make_optimizer
from tfrs_twotower.protocols import EvaluationSet, evaluation_set
from tfrs_twotower.runs import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    METRICS_FILE,
    TENSORBOARD,
    build_model,
    check_inputs,
    write_inputs,
)
from tfrs_twotower.schema import Config, UsageError, UserError, differences, load_config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json


@dataclass(frozen=True)
class Training:
    """What a training came to.

    `epochs`: the logs of each epoch; `best_epoch`: from 0; `validation`: the best epoch beside the
    baselines, None where there is nothing to validate on.
    """

    folder: Path
    epochs: list[dict[str, float]]
    best_epoch: int
    validation: Evaluation | None


def train(
    config: Config,
    data: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Training:
    """Trains a two-tower model with Keras and keeps the best epoch.

    Args:
        config: Must describe the data.
        data: The prepared folder.
        output: The run folder to write.
        overwrite: Whether a finished run folder may be replaced.
        resume: Whether an unfinished training in the folder is gone on with; it ends where an
            uninterrupted one ends.
        callbacks: Further Keras callbacks, for example to show progress; they see
            `val_<metric>` in the logs.

    Raises:
        UserError: If the data does not serve, or the training diverges.
    """
    prepared = PreparedData(data, config)
    examples = prepared.examples("train")
    num_positives = int((examples[layout.LABEL] == 1).sum())
    if num_positives < 2:
        raise UserError(
            f"{data}: the train split has {num_positives} positive examples, a softmax needs at "
            "least 2: bring more data, or change `split` or `labels`"
        )
    corpus = prepared.corpus()
    asked = _validation_set(prepared)
    with output_folder(output, overwrite=overwrite, resume=resume) as folder:
        if (folder / CONFIG_FILE).exists():
            _check_same(folder, prepared)
        else:
            write_inputs(folder, prepared)
        model = build_model(prepared)
        model.compile(optimizer=make_optimizer(config.training))
        metric = config.training.metric
        keep_best = KeepBest(
            folder,
            monitor=f"val_{metric}" if asked else None,
            patience=config.training.patience,
        )
        keep_best.restore(model)
        epochs = range(keep_best.finished_epochs, config.training.epochs)
        if epochs and not keep_best.is_over:
            model.fit(
                training_batches(examples, corpus, config, epochs),
                epochs=epochs.stop,
                initial_epoch=epochs.start,
                steps_per_epoch=steps_per_epoch(num_positives, config.training.batch_size),
                verbose=0,
                callbacks=[
                    *([RankingValidation(asked, corpus, metric)] if asked else []),
                    keras.callbacks.TensorBoard(str(folder / TENSORBOARD), write_graph=False),
                    keep_best,
                    *callbacks,
                ],
            )
        tf.train.Checkpoint(model=model).read(str(folder / BEST_WEIGHTS)).expect_partial()
        validation = None
        if asked:
            validation = evaluate_model(model, prepared, asked, split="validation", unit="user")
        summary: dict[str, Any] = {
            "epochs": keep_best.epochs,
            "best_epoch": keep_best.best_epoch,
            "validation": validation.as_dict() if validation else None,
        }
        write_json(folder / METRICS_FILE, summary)
        write_json(
            folder / MANIFEST,
            {
                "kind": "run",
                "code_version": __version__,
                "schema_fingerprint": config.fingerprint(),
                "tensorflow": tf.__version__,
            },
        )
    return Training(Path(output), keep_best.epochs, keep_best.best_epoch, validation)


def _validation_set(data: PreparedData) -> EvaluationSet | None:
    """What an epoch is judged by; None where the config validates on nothing."""
    counts = data.manifest["counts"]["examples"]["validation"]
    return evaluation_set(data, "validation") if counts["positives"] else None


def _check_same(folder: Path, data: PreparedData) -> None:
    """Checks that an unfinished run was begun with this config on this data."""
    begun_with = load_config(folder / CONFIG_FILE).model_dump(mode="json")
    found = differences(begun_with, data.config.model_dump(mode="json"))
    if found:
        shown = "; ".join(f"{path}: {old!r} then, {new!r} now" for path, old, new in found[:4])
        raise UsageError(
            f"{folder} was begun with another config: {shown}\n"
            "Resume with the same config, or train anew without --resume."
        )
    check_inputs(folder, data)

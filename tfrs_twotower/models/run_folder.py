"""Reads and writes the run folder, whose layout is in `tfrs_twotower.schema.runs`.

`tfrs_twotower.training.train` writes it; evaluation and export read the model back from it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.models.custom import build_own_model
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import (
    Config,
    UsageError,
    UserError,
    differences,
    dump_config,
    load_config,
)
from tfrs_twotower.schema.folders import read_manifest, write_json
from tfrs_twotower.schema.runs import BEST_WEIGHTS as BEST_WEIGHTS
from tfrs_twotower.schema.runs import CHECKPOINTS as CHECKPOINTS
from tfrs_twotower.schema.runs import CONFIG_FILE as CONFIG_FILE
from tfrs_twotower.schema.runs import EVALUATION as EVALUATION
from tfrs_twotower.schema.runs import INPUTS_FILE as INPUTS_FILE
from tfrs_twotower.schema.runs import METRICS_FILE as METRICS_FILE
from tfrs_twotower.schema.runs import REFIT as REFIT
from tfrs_twotower.schema.runs import TENSORBOARD as TENSORBOARD
from tfrs_twotower.schema.runs import VOCABULARIES as VOCABULARIES

MADE_BY = "twotower train"


@dataclass(frozen=True)
class Run:
    """A finished training beside the data it was trained on.

    `data` counts the validation split among what was trained on where the run is a refit.
    """

    folder: Path
    config: Config
    data: PreparedData
    model: TwoTowerModel


def build_model(data: PreparedData) -> TwoTowerModel:
    """The untrained model of the config, for the vocabularies and statistics of the data.

    Where the config names a model of the user's own, that: see `tfrs_twotower.models.custom`.
    """
    if data.config.towers.build is not None:
        return build_own_model(data.config.towers.build, data)
    return TwoTowerModel.from_config(
        data.config, data.num_rows(), data.number_statistics, data.history_candidates()
    )


def write_inputs(folder: Path, data: PreparedData, began_from: str | None = None) -> None:
    """Writes down which config and data a run has.

    Args:
        folder: The run folder.
        data: What it is trained on.
        began_from: Digest of the run whose weights it begins with, if any.
    """
    inputs = {"data": data.manifest["digests"], "began_from": began_from}
    write_json(folder / INPUTS_FILE, inputs)
    shutil.copytree(data.vocabulary_dir, folder / VOCABULARIES, dirs_exist_ok=True)
    # Last and by rename: a run with a config has what a resumed training needs.
    beside = folder / f"{CONFIG_FILE}.tmp"
    beside.write_text(dump_config(data.config), encoding="utf-8")
    beside.replace(folder / CONFIG_FILE)


def check_same(folder: Path, data: PreparedData, began_from: str | None = None) -> None:
    """Checks that an unfinished run was begun with this config, data and earlier run.

    Args:
        folder: The run folder.
        data: The prepared folder and config of now.
        began_from: See `write_inputs`.

    Raises:
        UsageError: If the config or the earlier run is another one.
        UserError: If the data are others.
    """
    begun_with = load_config(folder / CONFIG_FILE).model_dump(mode="json")
    if found := differences(begun_with, data.config.model_dump(mode="json")):
        shown = "; ".join(f"{path}: {old!r} then, {new!r} now" for path, old, new in found[:4])
        raise UsageError(
            f"{folder} was begun with another config: {shown}\n"
            "Resume with the same config, or train anew without resuming."
        )
    if _inputs(folder).get("began_from") != began_from:
        raise UsageError(
            f"{folder} was begun from other weights: resume with the warm start of then, or train "
            "anew without resuming"
        )
    check_inputs(folder, data)


def check_inputs(folder: Path, data: PreparedData) -> None:
    """Checks that a run, finished or not, is of this data.

    Raises:
        UserError: If it is of other data.
    """
    found = differences(_inputs(folder)["data"], data.manifest["digests"])
    if found:
        names = ", ".join(name for name, _, _ in found[:3])
        raise UserError(
            f"{folder} was trained on other data than {data.folder} (different: {names}): "
            "name the prepared folder it was trained on, or train again"
        )


def weights_of(folder: Path, config: Config) -> Path:
    """Where a run keeps its weights: those of its refit, if its config asks for one."""
    return (folder / REFIT if config.training.refit else folder) / BEST_WEIGHTS


def load_run(folder: str | Path, data_folder: str | Path) -> Run:
    """Reads a finished run.

    Args:
        folder: What `twotower train` wrote.
        data_folder: The prepared folder it was trained on.

    Raises:
        UserError: If either folder is missing, unfinished, or they do not belong together, or if
            the weights are of a model that this version does not make of the config.
    """
    folder = Path(folder)
    read_manifest(folder, kind="run", made_by=MADE_BY)
    config = load_config(folder / CONFIG_FILE)
    data = PreparedData(data_folder, config)
    check_inputs(folder, data)
    if config.training.refit:
        data = data.with_validation_in_training()
    model = build_model(data)
    checkpoint = tf.train.Checkpoint(model=model)
    try:
        # Partial: the state of the optimizer is not wanted.
        status = checkpoint.read(str(weights_of(folder, config))).expect_partial()
        status.assert_existing_objects_matched()
    except (AssertionError, ValueError) as error:
        raise UserError(
            f"{folder} holds the weights of another model than its config describes to this "
            "version of tfrs_twotower: train again, or use the version that trained it"
        ) from error
    return Run(folder, config, data, model)


def _inputs(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / INPUTS_FILE).read_text(encoding="utf-8")))

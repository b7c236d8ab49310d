"""A day's new data on the sample: a warm start learns it in a fraction of the epochs."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipelines.prepare import prepare
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.evaluation.compare import Difference, compare
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.schema import Config, load_config
from tfrs_twotower.training.train import train

DAY_S = 24 * 60 * 60
WARM_EPOCHS = 1


def until(dataset: Path, folder: Path, end_s: int) -> Path:
    """The data set as it was at a moment."""
    shutil.copytree(dataset, folder)
    log = pd.read_csv(folder / "interactions.csv", on_bad_lines="skip", dtype=str)
    seconds = pd.to_numeric(log["timestamp"], errors="coerce")
    log[seconds < end_s].to_csv(folder / "interactions.csv", index=False)
    return folder


def recall_beside(run: Path, other: Path, data: Path) -> Difference:
    """How far the recall of a run is from that of the other, over the same queries."""
    for each in (other, run):
        evaluate(each, data)
    differences = compare([other, run]).metrics[run.name]
    return next(found for found in differences if found.metric == "recall_at_10")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_days_are_learned_in_a_fraction_of_the_time_at_no_lower_recall(tmp_path):
    write_dataset("sample", tmp_path / "sample")
    config = load_config(tmp_path / "sample" / "twotower.yaml")
    log = pd.read_csv(tmp_path / "sample" / "interactions.csv", on_bad_lines="skip", dtype=str)
    seconds = pd.to_numeric(log["timestamp"], errors="coerce")
    last_s = int(seconds[seconds < 1e11].max())

    def prepared(days_ago: int) -> Path:
        folder = tmp_path / f"prepared-{days_ago}"
        dataset = until(
            tmp_path / "sample", tmp_path / f"log-{days_ago}", last_s - days_ago * DAY_S
        )
        prepare(config, str(dataset), str(folder))
        return folder

    def few_epochs(config: Config) -> Config:
        training = config.training.model_copy(update={"epochs": WARM_EPOCHS})
        return config.model_copy(update={"training": training})

    before = tmp_path / "before"
    train(config, prepared(2), before)
    for days_ago in (1, 0):
        data, warm = prepared(days_ago), tmp_path / f"warm-{days_ago}"
        of_warm = train(few_epochs(config), data, warm, warm_start=before)
        assert of_warm.vocabulary_changes["item_id"].kept > 1000
        before = warm
    of_cold = train(config, data, tmp_path / "cold")

    assert len(of_warm.epochs) * 4 <= len(of_cold.epochs)
    # Another seed alone moves the recall by 0.0014; over the same queries a loss would show.
    gain = recall_beside(warm, tmp_path / "cold", data)
    assert gain.difference_interval.high >= 0
    assert gain.difference_interval.low > -0.01

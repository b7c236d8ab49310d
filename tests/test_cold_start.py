"""Candidates that never occurred in train are found by what they are."""

import pytest

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import load_config

IDS = (
    "features={query: {user_id: {kind: id}, history: {kind: history, length: 20}}, "
    "candidate: {item_id: {kind: id}}}"
)

SMALL = ["training.epochs=8", "training.batch_size=512", "training.learning_rate=0.004"]


@pytest.mark.slow
def test_content_finds_new_candidates_that_ids_cannot(small_sample, tmp_path):
    write_dataset("sample", tmp_path / "dataset")

    def recall_of_new(name, *settings):
        settings = [*SMALL, *settings]
        config = load_config(tmp_path / "dataset" / "twotower.yaml", settings)
        prepared, run = tmp_path / f"prepared-{name}", tmp_path / f"run-{name}"
        api.prepare(config, tmp_path / "dataset", prepared)
        api.train(config, prepared, run)
        return api.evaluate(run, prepared).systems["model"]["new candidates"]["recall_at_20"]

    # Of 500 films: drawn at random, one in 25 would be among the first twenty.
    assert recall_of_new("content") > max(0.4, 3 * recall_of_new("ids", IDS))

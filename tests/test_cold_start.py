"""Candidates that never occurred in train are found by what they are."""

import pytest

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import load_config

IDS = (
    "features={query: {user_id: {kind: id}, history: {kind: history, length: 20}}, "
    "candidate: {item_id: {kind: id}}}"
)


@pytest.mark.slow
def test_content_finds_new_candidates_that_ids_cannot(tmp_path):
    write_dataset("sample", tmp_path / "dataset")

    def recall_of_new(name, *settings):
        config = load_config(
            tmp_path / "dataset" / "twotower.yaml", ["training.epochs=3", *settings]
        )
        prepared, run = tmp_path / f"prepared-{name}", tmp_path / f"run-{name}"
        api.prepare(config, tmp_path / "dataset", prepared)
        api.train(config, prepared, run)
        return api.evaluate(run, prepared).systems["model"]["new candidates"]["recall_at_100"]

    # A twentieth of 2,000 films: drawn at random, one in twenty would be among the first hundred.
    assert recall_of_new("content") > max(0.5, 3 * recall_of_new("ids", IDS))

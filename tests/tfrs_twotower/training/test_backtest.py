"""A replay sees no future, goes on where it was, and finds what was planted."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tests import tiny_world
from tests.prepared_folder import write_prepared_folder
from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.schema import Config, UsageError, UserError, load_config, parse_config
from tfrs_twotower.schema.policies import Steps, parse_policies
from tfrs_twotower.schema.prepared import NumberStatistics
from tfrs_twotower.training.backtest import Job, among, begin


def job(folder: Path, k: int = 10) -> Job:
    return Job(
        config=tiny_world.config(),
        steps=Steps(date(2024, 3, 10), days=7, count=2),
        policies=parse_policies("never,cold"),
        folder=folder,
        prepare=lambda config, moment, output: None,
        k=k,
        warm_epochs=1,
        callbacks=[],
        tell=print,
    )


def test_the_step_before_a_moment_validates_and_nothing_is_left_to_test(tmp_path):
    split = job(tmp_path).config_at(1).split

    assert (split.by, split.validation_from, split.test_from) == (
        *("dates", date(2024, 3, 10), date(2024, 3, 17)),
    )
    assert job(tmp_path).folder_at(2) == tmp_path / "2024-03-24"


def test_pairs_among_some_candidates_are_counted_by_their_place():
    pairs = Pairs(np.array([0, 0, 1, 2]), np.array([3, 5, 4, 5]))

    left, is_kept = among(pairs, np.array([1, 3, 5]))

    np.testing.assert_array_equal(is_kept, [True, True, False, True])
    np.testing.assert_array_equal(left.queries, [0, 0, 2])
    np.testing.assert_array_equal(left.candidate_rows, [1, 2, 2])


def test_a_folder_is_of_one_replay(tmp_path):
    begin(job(tmp_path / "replay"), "digest")
    begin(job(tmp_path / "replay"), "digest")

    with pytest.raises(UsageError, match="with another log"):
        begin(job(tmp_path / "replay"), "of another log")
    with pytest.raises(UsageError, match="with another k"):
        begin(job(tmp_path / "replay", k=5), "digest")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    with pytest.raises(UsageError, match="no backtest"):
        begin(job(tmp_path / "photos"), "digest")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        begin(job(tmp_path / "file"), "digest")


def test_numbers_are_normalised_as_the_model_learned_them(tmp_path):
    config = parse_config(
        "columns: {query_id: user, candidate_id: item, split: split}\nsplit: {by: column}\n"
        "features: {query: {user: {kind: id}}, candidate: {price: {kind: number}}}\n",
        "numbers",
    )
    folders = [
        write_prepared_folder(
            tmp_path / name,
            config,
            vocabularies={"user": ["u"]},
            candidates={"a": {"price": mean}},
            examples={},
            numbers={
                "price": dict(zip(NumberStatistics._fields, (9, mean, *[1.0] * 4), strict=True))
            },
        )
        for name, mean in (("then", 2.0), ("now", 5.0))
    ]
    then, now = (PreparedData(folder, config) for folder in folders)

    assert now.with_numbers_of(then).number_statistics == then.number_statistics
    assert now.number_statistics["price"].mean == 5.0


def test_misuse_is_told_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "log").mkdir()

    assert main(["backtest", str(tmp_path / "log")]) == 1
    assert "has no twotower.yaml: write one with `twotower init" in capsys.readouterr().err
    with pytest.raises(UsageError, match="`k` must be 1 or more, got 0"):
        api.backtest(tiny_world.config(), tmp_path / "log", tmp_path / "replay", k=0)
    with pytest.raises(UsageError, match="`policies`: 'daily' is none"):
        api.backtest(tiny_world.config(), tmp_path / "log", tmp_path / "replay", policies="daily")


def settings(dataset: Path) -> Config:
    overrides = ["training.epochs=8", "training.batch_size=512", "training.learning_rate=0.004"]
    return load_config(dataset / "twotower.yaml", overrides)


@pytest.mark.slow
def test_frequent_training_is_found_worth_it_where_tastes_move_and_items_age(
    small_sample, tmp_path, monkeypatch
):
    dataset = tmp_path / "drifting"
    write_dataset("sample", dataset, drift=True)

    def replayed():
        return api.backtest(
            settings(dataset),
            dataset,
            tmp_path / "replay",
            policies="never,refresh,warm",
            step="15d",
            num_steps=2,
            progress=False,
        )

    found = replayed()

    last = {name: served.recalls.mean() for name, served in found.steps[1].served.items()}
    assert last["never"] + 0.02 < last["refresh"] < last["warm"]
    assert last["never"] + 0.05 < last["warm"]
    assert found.recommendation.policy == "warm"
    # At the first moment all have the same model, and nothing was spent.
    assert len({served.recalls.mean() for served in found.steps[0].served.values()}) == 1
    assert found.num_trained["warm"] > 0 == found.num_trained["refresh"]
    assert found.steps[1].num_new > 0

    monkeypatch.setattr("tfrs_twotower.training.backtest.train", None)
    monkeypatch.setattr("tfrs_twotower.api._prepare", None)
    assert replayed().as_dict() == found.as_dict()


@pytest.mark.slow
def test_without_drift_training_again_gains_little(small_sample, tmp_path):
    write_dataset("sample", tmp_path / "still")

    found = api.backtest(
        settings(tmp_path / "still"),
        tmp_path / "still",
        tmp_path / "replay",
        policies="never,cold",
        step="5d",
        start="2024-03-01",
        num_steps=2,
        progress=False,
    )

    assert found.recommendation.policy == "never"

"""The search tries what it is told, goes on after a kill, and ends with the best."""

import json
import shutil

import pytest

from tests import tiny_world
from tfrs_twotower.cli import main
from tfrs_twotower.keras import keras
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import TrainingDiverged, UsageError, UserError, parse_config
from tfrs_twotower.training.tune import tune

# Each trial is a training.
pytestmark = pytest.mark.slow

SPACE = (
    "search={training.learning_rate: {low: 0.001, high: 0.1, log: true}, "
    "towers.embedding_dim: [2, 8]}"
)


def config(*overrides: str):
    text = tiny_world.CONFIG_TEXT
    return parse_config(text, "search", [SPACE, "training.epochs=2", *overrides])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "prepared"
    return tiny_world.write_prepared(folder, config(), held_out="validation")


@pytest.fixture(scope="module")
def searched(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "search"
    return folder, tune(config(), prepared, folder, num_trials=3)


def settings_of(trials):
    return {trial.number: trial.settings for trial in trials}


def test_trials_stay_within_the_space_and_differ(searched):
    trials = searched[1].trials

    assert len(trials) == 3
    rates = [trial.settings["training.learning_rate"] for trial in trials]
    assert len(set(rates)) == 3
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    assert {trial.settings["towers.embedding_dim"] for trial in trials} <= {2, 8}


def test_the_best_trial_comes_first_and_is_a_run_of_its_settings(searched, prepared):
    trials = searched[1].trials

    assert trials[0].value == max(trial.value for trial in trials)
    run = load_run(trials[0].folder, prepared)
    assert run.config.training.learning_rate == trials[0].settings["training.learning_rate"]
    summary = json.loads((trials[0].folder / "metrics.json").read_text())
    assert trials[0].value == max(epoch["val_recall_at_10"] for epoch in summary["epochs"])


def test_a_result_shows_its_trials_best_first(searched):
    found = searched[1]

    table = found.to_frame()
    assert found.best is found.trials[0]
    assert table.index.tolist() == [trial.number for trial in found.trials]
    assert table["recall_at_10"].tolist() == [trial.value for trial in found.trials]
    assert table["training.learning_rate"].tolist() == [
        trial.settings["training.learning_rate"] for trial in found.trials
    ]
    assert repr(found).startswith("3 trials by recall_at_10 on the validation split\n")


def test_settings_are_shown_as_the_command_line_takes_them(searched):
    trials = searched[1].trials
    again = config(*trials[0].as_overrides())

    assert again.training.learning_rate == trials[0].settings["training.learning_rate"]
    assert again.towers.embedding_dim == trials[0].settings["towers.embedding_dim"]


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(searched, prepared, tmp_path):
    class Kill(keras.callbacks.Callback):
        trials = 0

        def on_train_begin(self, logs=None):
            Kill.trials += 1
            if Kill.trials == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(config(), prepared, tmp_path / "search", num_trials=3, callbacks=[Kill()])

    resumed = tune(config(), prepared, tmp_path / "search", num_trials=3, resume=True)

    expected = sorted((trial.value, str(trial.settings)) for trial in searched[1].trials)
    assert sorted((trial.value, str(trial.settings)) for trial in resumed.trials) == expected


def test_a_trial_that_diverges_is_the_worst_and_does_not_end_the_search(prepared, tmp_path):
    class Diverge(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise TrainingDiverged.because("the loss in epoch 1 is nan")

    found = tune(config(), prepared, tmp_path / "search", num_trials=1, callbacks=[Diverge()])

    assert [trial.value for trial in found.trials] == [0.0]


def test_a_finished_search_takes_further_trials(searched, prepared):
    folder, found = searched

    ended = []
    more = tune(config(), prepared, folder, num_trials=4, resume=True, on_trial=ended.append)

    assert [trial for trial in more.trials if trial not in found.trials] == ended

    assert settings_of(found.trials).items() <= settings_of(more.trials).items()
    assert len(more.trials) == 4


def test_a_finished_search_is_refused_without_a_word(searched, prepared):
    with pytest.raises(UsageError, match="is finished: pass `overwrite=True`"):
        tune(config(), prepared, searched[0])


def test_a_search_does_not_go_on_with_another_config(searched, prepared):
    with pytest.raises(
        UsageError, match="begun with another config: loss.temperature: 0.3 then, 0.7"
    ):
        tune(config("loss.temperature=0.7"), prepared, searched[0], num_trials=9, resume=True)
    # It is as it was.
    assert len(tune(config(), prepared, searched[0], num_trials=1, resume=True).trials) >= 3


def test_a_search_does_not_go_on_with_other_data(searched, prepared, tmp_path):
    other = shutil.copytree(prepared, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["digests"]["examples"] = "of other examples"
    (other / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(UserError, match="trained on other data"):
        tune(config(), other, searched[0], num_trials=9, resume=True)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("{training.learning_rat: [0.1]}", "did you mean `learning_rate`"),
        ("{training.batch_size: {low: 1, high: 64}}", "training.batch_size"),
        ("{split.test: [0.1, 0.2]}", "changes what is prepared"),
        ("{training.seed: []}", "an empty list"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_any_training(prepared, tmp_path, space, told):
    with pytest.raises(UsageError, match=told):
        tune(config(f"search={space}"), prepared, tmp_path / "search")

    assert not (tmp_path / "search").exists()


def test_the_command_prints_the_trials_and_how_to_train_the_best(prepared, tmp_path, capsys):
    path = tmp_path / "twotower.yaml"
    path.write_text(tiny_world.CONFIG_TEXT, encoding="utf-8")

    code = main(
        ["tune", "--config", str(path), "--data", str(prepared), "--trials", "2"]
        + ["--output", str(tmp_path / "search"), "--set", "training.epochs=1", "--set", SPACE]
    )

    said = capsys.readouterr().out
    assert code == 0
    assert "2 trials, recall_at_10 on the validation split" in said
    assert "training.learning_rate" in said
    assert "--set towers.embedding_dim=" in said

"""A run folder read back: the same model, and no other data."""

import logging
import shutil

import numpy as np
import pytest
import yaml

from tests import every_kind, tiny_world
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.models.run_folder import BEST_WEIGHTS, CONFIG_FILE, build_model, load_run
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import MANIFEST, MARKER
from tfrs_twotower.training.train import train


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = every_kind.config(epochs=2)
    return every_kind.write_prepared(tmp_path_factory.mktemp("data") / "prepared", config)


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(every_kind.config(epochs=2), prepared, folder)
    return folder


def test_the_model_of_a_run_has_the_best_weights(run, prepared):
    loaded = load_run(run, prepared)

    reader = tf.train.load_checkpoint(str(run / BEST_WEIGHTS))
    kept = {
        np.asarray(reader.get_tensor(name)).tobytes() for name in reader.get_variable_to_shape_map()
    }
    assert {values.numpy().tobytes() for values in loaded.model.variables} <= kept


def test_the_weights_of_a_run_are_not_the_first_ones(run, prepared):
    loaded = load_run(run, prepared)
    fresh = build_model(loaded.data)

    for trained, first in zip(
        loaded.model.trainable_variables, fresh.trainable_variables, strict=True
    ):
        assert not np.array_equal(trained, first)


def test_the_config_of_a_run_is_the_one_it_was_trained_with(run, prepared):
    assert load_run(run, prepared).config == every_kind.config(epochs=2)


def test_reading_a_run_says_nothing(run, prepared, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        load_run(run, prepared)

    assert caplog.text == ""
    assert capfd.readouterr().err == ""


def test_a_model_is_built_the_same_each_time(prepared):
    data = PreparedData(prepared, every_kind.config())

    first, again = build_model(data), build_model(data)

    for one, other in zip(first.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_of_other_data_is_refused(run, tmp_path):
    """Other rows behind the same schema: the model would answer with wrong ids in silence."""
    other = every_kind.write_prepared(tmp_path / "other", every_kind.config(), seed=6)

    with pytest.raises(UserError, match=r"was trained on other data than .*different: examples"):
        load_run(run, other)


def test_data_of_another_schema_is_refused(run, tmp_path):
    other = tiny_world.write_prepared(tmp_path / "other", tiny_world.config())

    with pytest.raises(UserError, match="was prepared with another schema"):
        load_run(run, other)


@pytest.mark.parametrize("units", ["[8]", "[16, 16]"])  # A layer of another shape, one more.
def test_weights_of_another_model_are_refused(run, prepared, tmp_path, units):
    changed = shutil.copytree(run, tmp_path / "run")
    config = yaml.safe_load((changed / CONFIG_FILE).read_text())
    config["towers"]["candidate"]["hidden_units"] = yaml.safe_load(units)
    (changed / CONFIG_FILE).write_text(yaml.safe_dump(config))

    with pytest.raises(UserError, match="holds the weights of another model"):
        load_run(changed, prepared)


def test_a_run_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path, prepared):
    with pytest.raises(UserError, match="no folder .*absent: make it with `twotower train`"):
        load_run(tmp_path / "absent", prepared)


def test_a_run_that_is_not_finished_is_told(tmp_path, prepared):
    (tmp_path / MARKER).touch()

    with pytest.raises(UserError, match="is unfinished: make it with `twotower train`"):
        load_run(tmp_path, prepared)


def test_folders_in_the_wrong_place_are_told(run, prepared):
    assert (prepared / MANIFEST).exists()
    with pytest.raises(UserError, match="is a prepared folder, expected a run folder"):
        load_run(prepared, run)

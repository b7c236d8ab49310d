"""An export of the planted world, made once."""

import shutil

import pytest

from tests import tiny_world
from tfrs_twotower import api


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The prepared folder and the run folder of one epoch."""
    folder = tmp_path_factory.mktemp("tiny")
    config = tiny_world.config(epochs=1)
    prepared = tiny_world.write_prepared(folder / "prepared", config, held_out="validation")
    api.train(config, prepared, folder / "run", progress=False)
    return folder / "run", prepared


@pytest.fixture(scope="session")
def exported_once(tiny_run, tmp_path_factory):
    models = tmp_path_factory.mktemp("exported") / "models"
    api.export(*tiny_run, models)
    return models


@pytest.fixture
def models(exported_once, tmp_path):
    """A models folder with version 1, to be changed at will."""
    folder = tmp_path / "models"
    shutil.copytree(exported_once, folder)
    for name in ("models.config", "models.stock.config"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(str(exported_once), str(folder)))
    return folder

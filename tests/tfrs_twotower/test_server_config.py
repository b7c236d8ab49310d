"""The configs that are written, read back by the server's own reader."""

from pathlib import Path

import pytest

from serving.model_config import ALL_VERSIONS, VersionPolicy, read_models_config
from tfrs_twotower import server_config
from tfrs_twotower.schema import UserError


def read(models: Path, name: str = "models.config"):
    return {model.name: model for model in read_models_config(models / name)}


def test_without_labels_the_newest_version_is_served(tmp_path):
    server_config.write(tmp_path, {})

    found = read(tmp_path)
    assert set(found) == {"query_tower", "candidate_tower", "retrieval_exact", "retrieval"}
    assert {model.policy for model in found.values()} == {VersionPolicy(latest=1)}
    assert found["retrieval"].base_path == tmp_path / "retrieval"


def test_labelled_versions_are_served_and_no_others(tmp_path):
    server_config.write(tmp_path, {"stable": 3, "canary": 5})

    for model in read(tmp_path).values():
        assert model.labels == {"stable": 3, "canary": 5}
        assert model.policy == VersionPolicy(latest=None, specific=frozenset({3, 5}))
        assert model.policy != ALL_VERSIONS


def test_the_stock_config_leaves_out_what_stock_images_cannot_serve(tmp_path):
    server_config.write(tmp_path, {})

    assert "retrieval" not in read(tmp_path, "models.stock.config")


def test_the_place_where_the_server_sees_the_folder_stays(tmp_path):
    server_config.write(tmp_path, {}, "/models/")
    server_config.write(tmp_path, {"stable": 1})

    assert read(tmp_path)["retrieval"].base_path == Path("/models/retrieval")


def test_names_with_quotes_survive(tmp_path):
    server_config.write(tmp_path, {}, '/a "b" \\c')

    assert read(tmp_path)["retrieval"].base_path == Path('/a "b" \\c/retrieval')


def test_labels_are_read_back(tmp_path):
    assert server_config.read_labels(tmp_path) == {}

    server_config.write(tmp_path, {"stable": 2})

    assert server_config.read_labels(tmp_path) == {"stable": 2}


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "models.config").write_text("model_config_list {")

    with pytest.raises(UserError, match="models.config is damaged"):
        server_config.read_labels(tmp_path)

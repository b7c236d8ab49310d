"""The configs that are written, read back by the server's own reader."""

from pathlib import Path

import pytest

from serving.model_config import (
    ALL_VERSIONS,
    RequestLogging,
    VersionPolicy,
    read_models_config,
)
from tfrs_twotower.publishing import server_config
from tfrs_twotower.schema import UserError


def read(models: Path, name: str = "models.config"):
    return {model.name: model for model in read_models_config(models / name)}


def versions_of(models: Path, **numbers: list[int]) -> None:
    for name, found in numbers.items():
        for number in found:
            (models / name / str(number)).mkdir(parents=True)


def test_without_labels_the_newest_version_is_served(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1])

    server_config.write(tmp_path, {})

    found = read(tmp_path)
    assert set(found) == {"query_tower", "candidate_tower", "retrieval_exact", "retrieval"}
    assert {model.policy for model in found.values()} == {VersionPolicy(latest=1)}
    assert found["retrieval"].base_path == tmp_path / "retrieval"


def test_labelled_versions_are_served_and_no_others(tmp_path):
    versions_of(tmp_path, retrieval=[3, 4, 5], retrieval_exact=[3, 4, 5])

    server_config.write(tmp_path, {"stable": 3, "canary": 5})

    found = read(tmp_path)
    assert len(found) == 4
    for model in found.values():
        assert model.labels == {"stable": 3, "canary": 5}
        assert model.policy == VersionPolicy(latest=None, specific=frozenset({3, 5}))
        assert model.policy != ALL_VERSIONS


def test_the_stock_config_leaves_out_what_stock_images_cannot_serve(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1])

    server_config.write(tmp_path, {})

    assert "retrieval" not in read(tmp_path, "models.stock.config")


def test_a_stock_server_searches_the_inverted_lists_where_all_that_it_serves_has_them(tmp_path):
    versions_of(tmp_path, retrieval=[1, 2], retrieval_exact=[1, 2], retrieval_stock=[2])
    towers = {"query_tower", "candidate_tower"}

    server_config.write(tmp_path, {})
    assert set(read(tmp_path, "models.stock.config")) == {*towers, "retrieval_stock"}
    # A server with ScaNN's ops has no use for them.
    assert set(read(tmp_path)) == {*towers, "retrieval", "retrieval_exact"}

    server_config.write(tmp_path, {"stable": 1, "canary": 2})
    found = read(tmp_path, "models.stock.config")
    assert found["retrieval_stock"].labels == {"canary": 2}
    assert found["retrieval_exact"].labels == {"stable": 1, "canary": 2}


def test_a_stock_server_does_without_lists_that_only_an_older_version_has(tmp_path):
    versions_of(tmp_path, retrieval_exact=[1, 2], retrieval_stock=[1])

    server_config.write(tmp_path, {})

    found = read(tmp_path, "models.stock.config")
    assert set(found) == {"query_tower", "candidate_tower", "retrieval_exact"}


def test_an_older_retrieval_is_not_served_beside_a_newer_version_without_it(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1, 2])

    server_config.write(tmp_path, {})

    assert "retrieval" not in read(tmp_path)


def test_a_newer_retrieval_is_served_beside_an_older_version_without_it(tmp_path):
    versions_of(tmp_path, retrieval=[2], retrieval_exact=[1, 2])

    server_config.write(tmp_path, {})

    assert "retrieval" in read(tmp_path)


def test_retrieval_has_the_labels_of_the_versions_that_have_it(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1, 2])

    server_config.write(tmp_path, {"stable": 1, "canary": 2})

    found = read(tmp_path)
    assert found["retrieval"].labels == {"stable": 1}
    assert found["retrieval"].policy == VersionPolicy(latest=None, specific=frozenset({1}))
    assert found["retrieval_exact"].labels == {"stable": 1, "canary": 2}
    assert server_config.read_labels(tmp_path) == {"stable": 1, "canary": 2}


def test_retrieval_is_not_served_where_no_labelled_version_has_it(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1, 2])

    server_config.write(tmp_path, {"stable": 2})

    assert "retrieval" not in read(tmp_path)


def test_the_place_where_the_server_sees_the_folder_stays(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1])
    server_config.write(tmp_path, {}, "/models/")
    server_config.write(tmp_path, {"stable": 1})

    assert read(tmp_path)["retrieval"].base_path == Path("/models/retrieval")


def test_what_is_kept_of_the_answers_stays(tmp_path):
    versions_of(tmp_path, retrieval=[1, 2], retrieval_exact=[1, 2])
    server_config.write(tmp_path, {})
    config = tmp_path / "models.config"
    logging = (
        'logging_config { log_collector_config { filename_prefix: "/logs/r" } '
        "sampling_config { sampling_rate: 0.5 } }"
    )
    config.write_text(config.read_text().replace('"retrieval"', f'"retrieval"\n{logging}'))

    server_config.write(tmp_path, {"stable": 2})

    found = read(tmp_path)
    assert found["retrieval"].logging == RequestLogging(Path("/logs/r"), 0.5)
    assert found["retrieval"].labels == {"stable": 2}
    assert found["retrieval_exact"].logging is None


def test_names_with_quotes_survive(tmp_path):
    versions_of(tmp_path, retrieval=[1], retrieval_exact=[1])
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


def test_what_servers_are_waited_for_is_of_both_configs(tmp_path):
    versions_of(
        tmp_path,
        query_tower=[1, 2],
        candidate_tower=[1, 2],
        retrieval=[1, 2],
        retrieval_exact=[1, 2],
        retrieval_stock=[2],
    )
    server_config.write(tmp_path, {"stable": 1}, kept=[1, 2])

    server_config.write(tmp_path, {"stable": 2}, kept=[1, 2])

    models = ("query_tower", "candidate_tower", "retrieval", "retrieval_exact")
    both = dict.fromkeys(models, [1, 2])
    assert server_config.served_versions(tmp_path) == {**both, "retrieval_stock": [2]}
    assert server_config.labels_by_model(tmp_path) == dict.fromkeys(
        (*models, "retrieval_stock"), {"stable": 2}
    )


def test_similarity_is_served_where_the_versions_have_it(tmp_path):
    versions_of(tmp_path, retrieval=[1, 2], retrieval_exact=[1, 2], similarity=[2])

    server_config.write(tmp_path, {})
    assert "similarity" in read(tmp_path)
    assert "similarity" in read(tmp_path, "models.stock.config")

    server_config.write(tmp_path, {"stable": 1, "canary": 2})
    assert read(tmp_path)["similarity"].labels == {"canary": 2}

    server_config.write(tmp_path, {"stable": 1})
    assert "similarity" not in read(tmp_path)

"""What an export publishes beside the graphs, and what a later one leaves alone."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from serving.model_config import read_models_config
from tests import tiny_world
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing import export as export_module
from tfrs_twotower.publishing.export import export
from tfrs_twotower.publishing.indexes import matrix
from tfrs_twotower.publishing.models_folder import read_config, read_model_manifest
from tfrs_twotower.publishing.versions import set_label
from tfrs_twotower.schema import UsageError, dump_config, load_config, parse_config


def test_the_config_travels_with_the_candidate_tower(models):
    assert read_config(models, 1) == tiny_world.config(epochs=1)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("training.epochs=2", "training.epochs"),
        ("columns.title=name", "columns.title"),
        ("export.attributes=[name]", "export.attributes"),
    ],
)
def test_a_config_that_the_run_was_not_trained_with_is_refused(tiny_run, tmp_path, override, path):
    other = parse_config(dump_config(tiny_world.config(epochs=1)), "other", [override])

    with pytest.raises(UsageError, match=f"another config \\(different: {path}\\): train again"):
        export(*tiny_run, tmp_path / "models", config=other)


@pytest.mark.slow
def test_what_an_export_decides_may_differ_from_the_run(tiny_run, tmp_path):
    overrides = ["export.default_k=3", "export.retrieval=false", "search={loss.temperature: [1]}"]
    # Left out, the batch size is that of the run, 60.
    other = parse_config(
        dump_config(tiny_world.config(epochs=1)), "other", [*overrides, "training.batch_size=null"]
    )

    export(*tiny_run, tmp_path / "models", config=other)

    assert read_config(tmp_path / "models", 1) == other.with_batch_size(60)


@pytest.mark.slow
def test_a_target_that_is_given_counts_from_then_on(tiny_run, tmp_path):
    export(*tiny_run, tmp_path / "models", target_recall=0.9, at=5)

    index = read_config(tmp_path / "models", 1).index
    assert (index.target_recall, index.at) == (0.9, 5)


def test_recall_is_measured_on_the_queries_of_the_validation_split(models, tiny_run):
    run = load_run(*tiny_run)
    examples = PreparedData(tiny_run[1], run.config).examples("validation")
    expected = embed(run.model.query_tower, {"user_id": examples["user_id"]})

    path = models / "retrieval/1/assets.extra/held_out_queries.parquet"
    stored = matrix(pq.read_table(path), "query_embedding")

    assert len(stored) == tiny_world.SIZE
    np.testing.assert_allclose(np.sort(stored, axis=0), np.sort(expected, axis=0), atol=1e-6)
    recall = read_model_manifest(models, "retrieval", 1)["recall"]
    assert recall["mean"] == 1.0
    assert recall["num_queries"] == tiny_world.SIZE


def liked_by(number):
    return sorted(map(tiny_world.candidate_id, range(number % 2, tiny_world.SIZE, 2)))


def test_the_known_positives_of_all_splits_are_published(models):
    stored = pq.read_table(models / "queries/1").to_pylist()

    assert {row["user_id"]: row["exclude_ids"] for row in stored} == {
        tiny_world.query_id(number): liked_by(number) for number in range(tiny_world.SIZE)
    }


def test_of_too_many_known_positives_the_latest_split_is_kept_first(tiny_run, monkeypatch):
    monkeypatch.setattr(export_module, "MAX_KNOWN", 3)
    run = load_run(*tiny_run)

    found = export_module._known_positives(run, tiny_world.SIZE).to_pylist()

    for query_id, kept in zip(run.data.query_ids(), found, strict=True):
        number = int(query_id.removeprefix("user-"))
        withheld = tiny_world.candidate_id(tiny_world.withheld(number))
        of_train = [each for each in liked_by(number) if each != withheld]
        assert kept == sorted([withheld, *of_train[:2]])


def test_manifests_tell_the_asset_of_each_vocabulary(models, tiny_run):
    side = {"retrieval": "query_features", "candidate_tower": "candidate_features"}
    config = read_config(models, 1)

    for name, features in side.items():
        files = read_model_manifest(models, name, 1)["features"]
        own = {files[feature] for feature in getattr(config, features)} - {None}
        assert own == {path.name for path in (models / name / "1" / "assets").iterdir()}
    assert set(files) == {*config.query_features, *config.candidate_features}


def test_the_metrics_of_the_run_are_in_the_manifest(models, tiny_run):
    metrics = json.loads((tiny_run[0] / "metrics.json").read_text())

    assert read_model_manifest(models, "retrieval", 1)["metrics"] == metrics["validation"]


@pytest.mark.slow
def test_an_export_leaves_labels_where_they_are(models, tiny_run):
    set_label(models, 1, "stable")

    assert export(*tiny_run, models).version == 2

    served = {model.name: model for model in read_models_config(models / "models.config")}
    assert served["retrieval"].labels == {"stable": 1}
    assert served["retrieval"].policy.select([1, 2]) == [1]


@pytest.mark.parametrize(
    "given", [{"target_recall": 1.0}, {"target_recall": 0.0}, {"target_recall": 95.0}, {"at": 0}]
)
def test_a_target_that_makes_no_sense_is_refused(tiny_run, tmp_path, given):
    with pytest.raises(UsageError, match="expected"):
        export(*tiny_run, tmp_path / "models", **given)


@pytest.mark.parametrize("given", [{"target_recall": 0.9}, {"at": 5}])
def test_a_target_without_an_index_to_meet_it_is_refused(tiny_run, tmp_path, given):
    run, data = tmp_path / "run", tiny_run[1]
    shutil.copytree(tiny_run[0], run)
    config = load_config(run / "config.yaml", ["export.retrieval=false"])
    (run / "config.yaml").write_text(dump_config(config), encoding="utf-8")

    with pytest.raises(UsageError, match="`export.retrieval: false` leaves out: export without"):
        export(run, data, tmp_path / "models", **given)

    assert not (tmp_path / "models").exists()

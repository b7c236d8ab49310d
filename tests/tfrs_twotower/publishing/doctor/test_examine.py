"""The doctor as a whole."""

import shutil

import pyarrow.parquet as pq
import pytest

from tfrs_twotower.publishing.doctor import Finding, examine
from tfrs_twotower.publishing.models_folder import PART, folders_of
from tfrs_twotower.publishing.versions import set_label
from tfrs_twotower.schema import UsageError, UserError

STOCK = "tensorflow/serving:2.20.0"


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["embedded", STOCK])
def test_a_sound_export_is_sound(exported_once, target):
    findings = examine(exported_once, target)

    assert errors(findings) == []
    assert {f.where for f in findings} >= {"retrieval_exact/1", "query_tower/1", "packages"}
    left_out = "left out of models.stock.config: it needs ScaNN's operations"
    assert [f.where for f in findings if f.what == left_out] == (
        ["retrieval/1"] if target == STOCK else []
    )


def test_the_few_threads_of_a_stock_server_are_told():
    def told(target):
        return [finding.what for finding in examine(None, target) if "4 gRPC" in finding.what]

    assert told("embedded") == []
    assert "--grpc_max_threads=200" in told(STOCK)[0]


def test_a_version_that_was_not_copied_whole_is_caught(models):
    for name in ("query_tower", "retrieval", "retrieval_exact"):
        shutil.rmtree(models / name / "1")

    found = errors(examine(models))

    assert "it has no query_tower, retrieval_exact, retrieval" in found[0].what


@pytest.mark.slow
def test_a_damaged_version_that_is_served_is_caught_beside_a_sound_newest_one(models):
    for name in folders_of(models, 1):
        for version in ("2", "3", "4"):
            shutil.copytree(models / name / "1", models / name / version)
    set_label(models, 1, "stable")
    set_label(models, 2, "canary")
    for version in ("1", "3"):  # 3 is served to nobody.
        (models / "retrieval" / version / "saved_model.pb").unlink()
    candidates = models / "candidates" / "2" / PART
    pq.write_table(pq.read_table(candidates).slice(1), candidates)

    assert [(finding.where, finding.what) for finding in errors(examine(models))] == [
        ("retrieval/1", "saved_model.pb is missing"),
        ("version 2", "candidates has 19 candidates, retrieval 20"),
    ]


def test_a_target_that_is_no_server_is_refused(models):
    with pytest.raises(UsageError, match="expected embedded or an image"):
        examine(models, "triton")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        examine(tmp_path / "none")


def test_without_an_export_the_environment_alone_is_examined():
    assert {finding.where for finding in examine(None)} == {"packages", "CPU", "Keras"}

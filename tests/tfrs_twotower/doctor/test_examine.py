"""The doctor as a whole."""

import shutil

import pytest

from tfrs_twotower.doctor import Finding, examine
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


def test_a_version_that_was_not_copied_whole_is_caught(models):
    for name in ("query_tower", "retrieval", "retrieval_exact"):
        shutil.rmtree(models / name / "1")

    found = errors(examine(models))

    assert "it has no query_tower, retrieval_exact, retrieval" in found[0].what


def test_a_target_that_is_no_server_is_refused(models):
    with pytest.raises(UsageError, match="expected embedded or an image"):
        examine(models, "triton")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        examine(tmp_path / "none")


def test_without_an_export_the_environment_alone_is_examined():
    assert {finding.where for finding in examine(None)} == {"packages", "CPU", "Keras"}

"""Models that are broken on purpose: each is caught, and the cure is named."""

from collections.abc import Iterable

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from tfrs_twotower.publishing.doctor import Finding
from tfrs_twotower.publishing.doctor.saved_model import check_saved_model

# SavedModels are written, damaged and loaded.
pytestmark = pytest.mark.slow

STOCK = "tensorflow/serving:2.20.0"


def errors(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level == "error"]


def the_error(findings: Iterable[Finding]) -> Finding:
    """The one error, which must have a cure."""
    found = errors(findings)
    assert len(found) == 1, found
    assert found[0].cure
    return found[0]


def change_graph(folder, change):
    proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(proto.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())


@pytest.mark.parametrize(
    ("name", "target", "count"),
    [
        pytest.param("retrieval", "embedded", 9, id="scann"),
        pytest.param("retrieval_exact", STOCK, 9, id="exact"),
        pytest.param("candidate_tower", STOCK, 3, id="tower"),
    ],
)
def test_a_sound_model_is_sound(exported_once, name, target, count):
    findings = list(check_saved_model(exported_once / name / "1", target))

    assert not errors(findings)
    assert f"{count} warm-up requests replayed" in {finding.what for finding in findings}


def test_scann_on_a_stock_image_is_caught(models):
    error = the_error(check_saved_model(models / "retrieval" / "1", STOCK))

    assert f"{STOCK} does not know Scann>" in error.what
    assert "models.stock.config" in error.cure


def test_an_image_older_than_the_export_is_caught(models):
    error = the_error(check_saved_model(models / "query_tower" / "1", "tensorflow/serving:2.11.0"))

    assert "made with TensorFlow 2.20.0, newer than tensorflow/serving:2.11.0" in error.what
    assert "tensorflow/serving:2.20.0" in error.cure


def test_a_newer_image_is_welcome(models):
    assert not errors(
        check_saved_model(models / "query_tower" / "1", "tensorflow/serving:2.21.0-gpu")
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda f: (f / "saved_model.pb").unlink(), "saved_model.pb is", id="no-graph"),
        pytest.param(
            lambda f: (f / "saved_model.pb").write_bytes(b"\xff" * 9),
            "cannot be parsed",
            id="graph",
        ),
        pytest.param(
            lambda f: (f / "assets.extra/manifest.json").unlink(), "is missing", id="manifest"
        ),
        pytest.param(
            lambda f: (f / "variables/variables.data-00000-of-00001").unlink(),
            "does not load or run",
            id="variables",
        ),
        pytest.param(
            lambda f: (f / "assets/user_id.txt").unlink(), "does not load or run", id="vocabulary"
        ),
        pytest.param(
            lambda f: (f / "assets.extra/tf_serving_warmup_requests").write_bytes(b"broken"),
            "warm-up file is damaged",
            id="warm-up",
        ),
    ],
)
def test_a_damaged_model_is_caught(models, damage, message):
    damage(models / "query_tower" / "1")

    assert message in the_error(check_saved_model(models / "query_tower" / "1", "embedded")).what


def test_defaults_that_were_lost_are_caught(models):
    folder = models / "retrieval_exact" / "1"
    change_graph(folder, lambda graph: graph.signature_def["recommend"].defaults.clear())

    error = the_error(check_saved_model(folder, "embedded"))

    assert error.where == "retrieval_exact/1"
    assert "allow_ids, exclude_ids, k" in error.what


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda graph: (
                graph.signature_def["serving_default"].inputs["user_id"].__setattr__("dtype", 1)
            ),
            "wrong type for user_id",
            id="type",
        ),
        pytest.param(
            lambda graph: (
                graph.signature_def["serving_default"]
                .inputs["more"]
                .CopyFrom(graph.signature_def["serving_default"].inputs["user_id"])
            ),
            "lacks the input more",
            id="missing",
        ),
        pytest.param(
            lambda graph: graph.signature_def["serving_default"].inputs.pop("user_id"),
            "unknown input user_id",
            id="unknown",
        ),
        pytest.param(
            lambda graph: graph.signature_def.pop("serving_default"),
            "asks signature 'serving_default'",
            id="signature",
        ),
    ],
)
def test_a_warm_up_request_that_a_server_refuses_is_caught(models, change, message):
    change_graph(models / "query_tower" / "1", change)

    assert message in the_error(check_saved_model(models / "query_tower" / "1", "embedded")).what


def test_an_export_without_warm_up_requests_is_warned_of(models):
    (models / "query_tower/1/assets.extra/tf_serving_warmup_requests").unlink()

    findings = list(check_saved_model(models / "query_tower" / "1", "embedded"))

    assert not errors(findings)
    assert [f.where for f in findings if f.level == "warning"] == ["query_tower/1"]

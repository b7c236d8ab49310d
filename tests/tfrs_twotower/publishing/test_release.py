"""What the release gate lets through, and what it stops with which reason."""

import json
import shutil

import pyarrow as pa
import pytest

from tests.tiny_world import SIZE, candidate_id
from tfrs_twotower import api
from tfrs_twotower.publishing import release
from tfrs_twotower.publishing.models_folder import folders_of, models_of
from tfrs_twotower.publishing.refresh import refresh
from tfrs_twotower.publishing.release import Limits, release_gate
from tfrs_twotower.publishing.versions import set_label
from tfrs_twotower.schema import UserError

# Two versions are published.
pytestmark = pytest.mark.slow

OLD = sorted(candidate_id(number) for number in range(SIZE))


@pytest.fixture
def two(models):
    """Version 1 is stable, version 2 is a copy of it."""
    for name in folders_of(models, 1):
        shutil.copytree(models / name / "1", models / name / "2")
    set_label(models, 1)
    return models


def change_manifest(models, name, change):
    path = models / name / "2" / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_the_same_again_is_a_go(two):
    gate = release_gate(two, 2)

    assert gate.is_go
    assert (gate.version, gate.served_version) == (2, 1)
    shown = {check.name: check.new for check in gate.checks}
    assert shown["overlap@10"] == "1.00"
    assert shown["recall of the index"] == "1.000"


def test_a_first_release_is_compared_with_nothing(models):
    gate = release_gate(models, 1)

    assert gate.served_version is None
    assert all(check.served == "" for check in gate.checks)


def test_a_metric_that_falls_in_one_slice_stops_it(two):
    def worse(manifest):
        part = manifest["metrics"]["metrics"]["model"]["warm"]
        part["recall_at_10"] *= 0.9

    def known(manifest):
        for system in ("model", "popularity"):
            for part in ("all", "warm"):
                manifest["metrics"]["metrics"][system][part]["recall_at_10"] = 0.4

    for version in ("1", "2"):
        path = two / "retrieval" / version / "assets.extra" / "manifest.json"
        manifest = json.loads(path.read_text())
        known(manifest)
        path.write_text(json.dumps(manifest))
    change_manifest(two, "retrieval", worse)

    assert release_gate(two, 2).reasons == [
        "recall_at_10 of warm queries falls by 10%, 0.4000 to 0.3600"
    ]


def test_a_model_below_popularity_is_stopped(two):
    def below(manifest):
        metrics = manifest["metrics"]["metrics"]
        metrics["popularity"]["all"]["recall_at_10"] = 0.99
        metrics["model"]["all"]["recall_at_10"] = 0.98

    change_manifest(two, "retrieval", below)

    assert release_gate(two, 2).reasons == ["recall_at_10 0.9800 is below popularity, 0.9900"]


def test_what_a_refresh_did_not_measure_is_not_shown_as_its_own(two):
    change_manifest(
        two, "retrieval", lambda manifest: manifest.update(origin="refresh", base_version=1)
    )

    shown = {check.name: (check.served, check.new) for check in release_gate(two, 2).checks}

    assert shown["recall_at_10"] == ("", "not measured: refreshed from version 1")
    assert [name for name in shown if name.startswith("recall_at_10,")] == []


def test_an_index_that_finds_less_is_stopped(two):
    change_manifest(two, "retrieval", lambda manifest: manifest["recall"].update(mean=0.9))

    assert release_gate(two, 2).reasons == [
        "the index finds 0.900 of the exact answers, 1.000 before"
    ]


def test_two_versions_that_do_not_fit_into_memory_are_stopped(two, monkeypatch):
    for name in models_of(two, 2):
        change_manifest(two, name, lambda manifest: manifest.update(memory_bytes=10**9))
    monkeypatch.setattr(release, "available_bytes", lambda: 3 * 10**9)

    assert release_gate(two, 2).reasons == [
        "both versions take 4.0 GB while they are swapped, 3.0 GB are free here"
    ]


def test_candidates_that_are_gone_are_not_missed(models):
    set_label(models, 1)
    refresh(models, [pa.table({"candidate_id": OLD[:12]})])

    gate = release_gate(models, 2)

    # Of the answers that are still possible, all are given.
    assert {check.name: check.new for check in gate.checks}["overlap@10"] == "1.00"
    assert gate.is_go


def test_other_answers_from_the_same_towers_are_stopped(two):
    """Version 2 has the index of other candidates under the ids of the old ones."""
    names = [f"other-{number}" for number in range(30)]
    made = refresh(two, [pa.table({"candidate_id": [*OLD[:10], *names]})])

    gate = release_gate(two, made.version, Limits(min_overlap_same_towers=1.01))

    assert "of the answers are those of version 1" in gate.reasons[0]


def test_a_slow_version_is_stopped(two):
    gate = release_gate(two, 2, Limits(max_latency_ratio=0.0, latency_floor_ms=0.0))

    assert gate.reasons[0].startswith("a query takes ")


def test_promote_stops_at_a_no_go_and_force_goes_on(two):
    change_manifest(two, "retrieval", lambda manifest: manifest["recall"].update(mean=0.9))

    with pytest.raises(UserError, match="version 2 is a no-go: the index finds 0.900"):
        api.promote(two)
    assert not api.promote(two, force=True).is_go

    assert "value: 2" in (two / "models.config").read_text()


def test_promote_names_a_version_that_is_not_there(two):
    with pytest.raises(UserError, match="no version 9"):
        api.promote(two, 9)

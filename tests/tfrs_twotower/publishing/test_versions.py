"""Labels, promotions and rollbacks, as the server reads them."""

import json
import shutil

import pytest

from serving.model_config import read_models_config
from tfrs_twotower.publishing.versions import list_versions, rollback, set_label
from tfrs_twotower.schema import UsageError, UserError

FOLDERS = (
    "retrieval",
    "retrieval_exact",
    "query_tower",
    "candidate_tower",
    "candidates",
    "queries",
)


@pytest.fixture
def three(models):
    """A models folder with versions 1, 2 and 3 (copies)."""
    for name in FOLDERS:
        for version in ("2", "3"):
            shutil.copytree(models / name / "1", models / name / version)
    return models


def labels(models):
    return {
        model.name: dict(model.labels) for model in read_models_config(models / "models.config")
    }


def test_versions_are_listed_with_labels_and_what_is_known_of_them(three):
    set_label(three, 2)

    found = list_versions(three)

    assert [(v.number, v.labels, v.origin) for v in found] == [
        (1, (), "export"),
        (2, ("stable",), "export"),
        (3, (), "export"),
    ]
    assert {(v.corpus_size, v.recall) for v in found} == {(20, 1.0)}


def test_a_manifest_of_an_earlier_tfrs_twotower_is_read(models):
    """It does not name how many queries the index was tuned on."""
    path = models / "retrieval/1/assets.extra/manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["recall"].pop("num_tuning_queries") == 0
    path.write_text(json.dumps(manifest))

    assert [version.recall for version in list_versions(models)] == [1.0]


def test_a_version_that_was_not_copied_whole_is_no_version(three):
    shutil.rmtree(three / "query_tower" / "3")

    assert [version.number for version in list_versions(three)] == [1, 2]
    with pytest.raises(UserError, match="no version 3: it has 1, 2"):
        set_label(three, 3)


def test_every_model_gets_the_label(three):
    set_label(three, 2)
    set_label(three, 3, "canary")

    assert list(labels(three).values()) == [{"stable": 2, "canary": 3}] * 4


def test_a_canary_that_becomes_stable_is_none_any_more(three):
    set_label(three, 1)
    set_label(three, 2, "canary")
    set_label(three, 2)

    assert labels(three)["retrieval"] == {"stable": 2}


def test_a_rollback_goes_back_one_release_after_the_other(three):
    for version in (1, 3, 2):
        set_label(three, version)

    assert [rollback(three), rollback(three)] == [3, 1]
    assert labels(three)["retrieval"] == {"stable": 1}


def test_a_rollback_takes_the_canary_down(three):
    set_label(three, 1)
    set_label(three, 2)
    set_label(three, 3, "canary")

    rollback(three)

    assert labels(three)["retrieval"] == {"stable": 1}


def test_the_same_version_promoted_twice_is_one_release(three):
    for version in (1, 2, 2):
        set_label(three, version)

    assert rollback(three) == 1


def test_there_is_nothing_to_roll_back_to_before_a_second_release(three):
    set_label(three, 1)

    with pytest.raises(UserError, match="no version of .* was stable before"):
        rollback(three)


def test_a_version_that_is_gone_cannot_be_rolled_back_to(three):
    set_label(three, 1)
    set_label(three, 2)
    shutil.rmtree(three / "retrieval" / "1")

    with pytest.raises(UserError, match="version 1, stable before, is gone"):
        rollback(three)


def test_other_labels_are_refused(three):
    with pytest.raises(UsageError, match="'beta': expected stable or canary"):
        set_label(three, 1, "beta")


class Recorder:
    """Stands for the servers: notes the config that they are to follow at each step."""

    def __init__(self, models):
        self.models = models
        self.steps = []

    def until_loaded(self, versions):
        self.steps.append(("load", versions["query_tower"], labels(self.models)["query_tower"]))

    def until_moved(self, labels):
        self.steps.append(("move", served(self.models), labels["query_tower"]))


def served(models):
    configs = {model.name: model for model in read_models_config(models / "models.config")}
    return sorted(configs["query_tower"].policy.specific)


def test_a_label_moves_after_its_version_is_loaded_and_what_has_none_goes_last(three):
    set_label(three, 1)
    recorder = Recorder(three)

    set_label(three, 3, rollout=recorder)

    assert recorder.steps == [("load", [1, 3], {"stable": 1}), ("move", [1, 3], {"stable": 3})]
    assert (served(three), labels(three)["query_tower"]) == ([3], {"stable": 3})


def test_a_first_label_leaves_the_newest_version_served_until_it_stands(three):
    recorder = Recorder(three)

    set_label(three, 2, rollout=recorder)

    assert recorder.steps == [("load", [2, 3], {}), ("move", [2, 3], {"stable": 2})]
    assert served(three) == [2]


def test_a_rollback_moves_in_the_same_steps(three):
    set_label(three, 1)
    set_label(three, 2)
    set_label(three, 3, "canary")
    recorder = Recorder(three)

    rollback(three, recorder)

    both = {"stable": 2, "canary": 3}
    assert recorder.steps == [("load", [1, 2, 3], both), ("move", [1, 2, 3], {"stable": 1})]
    assert served(three) == [1]


def test_a_version_that_no_server_loads_gets_no_label(three):
    set_label(three, 1)
    recorder = Recorder(three)
    recorder.until_loaded = lambda _: (_ for _ in ()).throw(UserError("no memory"))

    with pytest.raises(UserError, match="no memory"):
        set_label(three, 2, rollout=recorder)

    assert labels(three)["query_tower"] == {"stable": 1}
    assert [version.labels for version in list_versions(three)] == [("stable",), (), ()]
    with pytest.raises(UserError, match="no version of .* was stable before"):
        rollback(three)


def test_a_damaged_history_is_named(three):
    (three / "releases.json").write_text("[]")

    with pytest.raises(UserError, match="releases.json is damaged"):
        rollback(three)

"""Versions come and go; requests never notice. Loading is faked, folders and threads are real."""

import threading

import pytest

from serving.errors import InvalidRequestError, LoadError, ModelNotFoundError
from serving.model_config import ALL_VERSIONS, ModelConfig, VersionPolicy
from serving.servables import Servables, State, versions_under
from tests.serving.conftest import wait_until


class FakeServable:
    def __init__(self, name, version):
        self.name, self.version, self.is_closed = name, version, False

    def close(self):
        self.is_closed = True


class Loader:
    """Loads every version whose folder has a file `good`; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, path, name, version):
        self.asked.append(version)
        if not (path / "good").exists():
            raise LoadError(f"{path} is damaged")
        return FakeServable(name, version)


@pytest.fixture
def base_path(tmp_path):
    path = tmp_path / "retrieval"
    path.mkdir()
    return path


@pytest.fixture
def loader():
    return Loader()


def add(base_path, *versions, good=True):
    for version in versions:
        path = base_path / str(version)
        path.mkdir()
        if good:
            (path / "good").touch()


def served(servables, name="retrieval", **which):
    with servables.use(name, **which) as servable:
        return servable.version


def started(base_path, loader, policy=VersionPolicy(), labels=None):  # noqa: B008
    servables = Servables([ModelConfig("retrieval", base_path, policy, labels or {})], loader)
    servables.start()
    return servables


def remove(base_path, version):
    for file in (base_path / str(version)).iterdir():
        file.unlink()
    (base_path / str(version)).rmdir()


def test_the_newest_version_is_served(base_path, loader):
    add(base_path, 9, 10, 2)

    servables = started(base_path, loader)

    assert served(servables) == 10
    assert loader.asked == [10]


def test_all_versions_are_served_where_the_policy_says_so(base_path, loader):
    add(base_path, 1, 2)

    servables = started(base_path, loader, ALL_VERSIONS)

    assert [served(servables, version=1), served(servables, version=2), served(servables)] == [
        1,
        2,
        2,
    ]


def test_a_label_stands_for_its_version(base_path, loader):
    add(base_path, 1, 2)

    servables = started(base_path, loader, ALL_VERSIONS, {"stable": 1})

    assert served(servables, label="stable") == 1
    with pytest.raises(InvalidRequestError, match="Unrecognized servable version label: canary"):
        served(servables, label="canary")


@pytest.mark.parametrize(
    ("which", "said"),
    [
        pytest.param({"name": "other"}, r"Latest\(other\)", id="model"),
        pytest.param({"version": 7}, r"Specific\(retrieval, 7\)", id="version"),
        pytest.param({"label": "gone"}, r"Specific\(retrieval, 5\)", id="label"),
    ],
)
def test_what_is_not_served_is_not_found(base_path, loader, which, said):
    add(base_path, 1)
    servables = started(base_path, loader, labels={"gone": 5})

    with pytest.raises(ModelNotFoundError, match=said):
        served(servables, **{"name": "retrieval", **which})


def test_a_new_version_replaces_the_old_one(base_path, loader):
    add(base_path, 1)
    servables = started(base_path, loader)
    with servables.use("retrieval") as old:
        pass
    add(base_path, 2)

    servables.sync()

    assert served(servables) == 2
    assert old.is_closed
    assert {v: s.state for v, s in servables.statuses("retrieval").items()} == {
        1: State.END,
        2: State.AVAILABLE,
    }


def test_the_old_version_answers_until_the_new_one_is_loaded(base_path):
    add(base_path, 1)
    seen = []

    def load(path, name, version):
        if version == 2:
            seen.append((served(servables), servables.statuses(name)[2].state))
        return FakeServable(name, version)

    servables = Servables([ModelConfig("retrieval", base_path)], load)
    servables.start()
    add(base_path, 2)
    servables.sync()

    assert seen == [(1, State.LOADING)]


def test_a_version_is_closed_only_after_its_last_request(base_path, loader):
    add(base_path, 1)
    servables = started(base_path, loader)
    with servables.use("retrieval") as old:
        add(base_path, 2)
        syncing = threading.Thread(target=servables.sync)
        syncing.start()
        wait_until(lambda: servables.statuses("retrieval")[1].state == State.UNLOADING)

        assert served(servables) == 2
        assert not old.is_closed
    syncing.join()

    assert old.is_closed


def test_a_damaged_version_leaves_the_old_one_serving_and_is_told(base_path, loader):
    add(base_path, 1)
    servables = started(base_path, loader)
    add(base_path, 2, good=False)

    servables.sync()

    assert served(servables) == 1
    status = servables.statuses("retrieval", 2)[2]
    assert status.state == State.END
    assert "is damaged" in status.error


def test_a_damaged_version_is_tried_again_once_it_changes(base_path, loader):
    add(base_path, 1)
    servables = started(base_path, loader)
    add(base_path, 2, good=False)
    servables.sync()
    servables.sync()
    assert loader.asked == [1, 2]

    (base_path / "2" / "good").touch()
    servables.sync()

    assert served(servables) == 2


def test_after_a_restart_the_version_before_a_damaged_one_serves(base_path, loader):
    add(base_path, 1, 2)
    add(base_path, 3, good=False)

    servables = started(base_path, loader)

    assert served(servables) == 2
    assert loader.asked == [3, 2]


def test_removing_the_newest_version_goes_back(base_path, loader):
    add(base_path, 1, 2)
    servables = started(base_path, loader)
    remove(base_path, 2)

    servables.sync()

    assert served(servables) == 1


def test_an_emptied_folder_leaves_the_last_version_serving(base_path, loader):
    add(base_path, 1)
    servables = started(base_path, loader)
    remove(base_path, 1)

    servables.sync()

    assert served(servables) == 1


def test_another_config_changes_models_policies_and_labels(base_path, loader, tmp_path):
    add(base_path, 1, 2)
    other_path = tmp_path / "other"
    other_path.mkdir()
    add(other_path, 5)
    servables = started(base_path, loader)

    pinned = VersionPolicy(latest=None, specific=frozenset({1}))
    servables.sync(
        [ModelConfig("retrieval", base_path, pinned, {"stable": 1}), ModelConfig("o", other_path)]
    )
    assert served(servables) == served(servables, label="stable") == 1
    assert served(servables, "o") == 5

    servables.sync([ModelConfig("o", other_path)])
    with pytest.raises(ModelNotFoundError):
        served(servables)


def test_a_label_moves_once_its_new_version_is_served(base_path, loader):
    add(base_path, 3)
    add(base_path, 4, good=False)

    def config(version):
        policy = VersionPolicy(latest=None, specific=frozenset({version}))
        return ModelConfig("retrieval", base_path, policy, {"stable": version})

    servables = Servables([config(3)], loader)
    servables.start()

    servables.sync([config(4)])
    assert served(servables, label="stable") == 3

    (base_path / "4" / "good").touch()
    servables.sync()
    assert served(servables, label="stable") == 4


def test_a_version_that_a_label_still_needs_is_kept(base_path, loader):
    add(base_path, 3, 5)
    add(base_path, 4, good=False)
    servables = started(base_path, loader, ALL_VERSIONS, {"stable": 3})

    policy = VersionPolicy(latest=None, specific=frozenset({4, 5}))
    servables.sync([ModelConfig("retrieval", base_path, policy, {"stable": 4})])

    assert served(servables, label="stable") == 3


def test_a_model_that_moves_to_another_folder_is_loaded_from_there(base_path, loader, tmp_path):
    add(base_path, 1)
    servables = started(base_path, loader)
    with servables.use("retrieval") as old:
        pass
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    add(elsewhere, 1)

    servables.sync([ModelConfig("retrieval", elsewhere)])

    assert old.is_closed
    assert served(servables) == 1


def test_a_folder_that_cannot_be_served_takes_no_healthy_model_off(base_path, loader, tmp_path):
    add(base_path, 1)
    servables = started(base_path, loader)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    add(damaged, 1, good=False)

    for elsewhere in (tmp_path / "nowhere", damaged):
        servables.sync([ModelConfig("retrieval", elsewhere)])

        with servables.use("retrieval") as servable:
            assert not servable.is_closed
        assert servables.statuses("retrieval")[1].state == State.AVAILABLE


def test_a_version_of_another_folder_replaces_that_of_the_same_number(base_path, tmp_path):
    add(base_path, 1)
    loaded, seen = [], []

    def load(path, name, version):
        # While the new one is loaded, the old one answers.
        seen.append([served(servables) for _ in loaded])
        loaded.append(FakeServable(name, version))
        return loaded[-1]

    servables = Servables([ModelConfig("retrieval", base_path)], load)
    servables.start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    add(elsewhere, 1)

    servables.sync([ModelConfig("retrieval", elsewhere)])

    assert seen == [[], [1]]
    with servables.use("retrieval") as servable:
        assert servable is loaded[1]
    assert [one.is_closed for one in loaded] == [True, False]


def test_closing_waits_and_unloads_everything(base_path, loader):
    add(base_path, 1, 2)
    servables = started(base_path, loader, ALL_VERSIONS)
    with servables.use("retrieval", version=1) as first, servables.use("retrieval") as second:
        pass

    servables.close()

    assert (first.is_closed, second.is_closed) == (True, True)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param(lambda path: None, "has no version of retrieval", id="empty folder"),
        pytest.param(lambda path: path.rmdir(), "cannot read the model folder", id="no folder"),
        pytest.param(
            lambda path: (path / "saved_model.pb").touch(),
            "is itself a SavedModel",
            id="a version instead of its parent",
        ),
        pytest.param(
            lambda path: add(path, 1, 2, good=False), "2 is damaged", id="nothing that loads"
        ),
    ],
)
def test_a_model_that_cannot_be_served_stops_the_start(base_path, loader, prepare, said):
    prepare(base_path)

    with pytest.raises(LoadError, match=said):
        started(base_path, loader)


def test_a_pinned_version_that_is_not_there_stops_the_start(base_path, loader):
    add(base_path, 1, 2)

    with pytest.raises(LoadError, match="has versions 1, 2 of retrieval, the config asks for 7"):
        started(base_path, loader, VersionPolicy(latest=None, specific=frozenset({7})))


def test_only_numbered_folders_are_versions(base_path):
    add(base_path, 7, "tmp-8", "x", "-3", "٣")
    (base_path / "9").touch()

    assert versions_under(base_path) == {7: base_path / "7"}

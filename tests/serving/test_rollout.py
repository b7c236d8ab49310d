"""Labels that move once running servers have followed, on a server that follows as TF Serving."""

import threading

import pytest

from serving.model_config import ModelConfig, VersionPolicy
from serving.model_server import ModelServer
from serving.rollout import Pause, Servers
from tests.serving import toy_models
from tfrs_twotower.schema import UserError


@pytest.fixture
def base_path(tmp_path):
    toy_models.write_query_tower(tmp_path, 1)
    toy_models.write_query_tower(tmp_path, 2)
    return tmp_path


@pytest.fixture
def server(base_path):
    with ModelServer([config(base_path, {1}, {"stable": 1})], rest_port=None) as server:
        yield server


def config(base_path, versions, labels):
    policy = VersionPolicy(latest=None, specific=frozenset(versions))
    return ModelConfig("query_tower", base_path, policy, labels)


def follow(server, *configs):
    """What the server's watcher would do."""
    server._servables.sync(configs)


def servers(server, told, longest_s=20.0):
    return Servers([f"127.0.0.1:{server.port}"], longest_s, told.append)


def test_a_version_is_waited_for_until_it_is_available(base_path, server):
    told = []
    both = config(base_path, {1, 2}, {"stable": 1})
    loading = threading.Timer(0.3, follow, (server, both))
    loading.start()

    servers(server, told).until_loaded({"query_tower": [1, 2], "retrieval": [1, 2]})

    assert ("query_tower", 2) in server._servables.available()
    assert told == [f"waiting for 127.0.0.1:{server.port} to load versions 1, 2"]
    loading.join()


def test_a_label_is_waited_for_until_it_has_moved(base_path, server):
    follow(server, config(base_path, {1, 2}, {"stable": 1}))
    moving = threading.Timer(0.3, follow, (server, config(base_path, {1, 2}, {"stable": 2})))
    moving.start()

    servers(server, []).until_moved({"query_tower": {"stable": 2}})

    assert server._servables.version_of("query_tower", "stable") == 2
    moving.join()


def test_a_server_that_does_not_follow_is_told_with_what_is_missing(server):
    waiting = servers(server, [], longest_s=0.1)

    with pytest.raises(UserError, match=r"within 0.1 s: not loaded yet: query_tower version 7"):
        waiting.until_loaded({"query_tower": [1, 7]})
    with pytest.raises(UserError, match="stable of query_tower is version 1, not 2"):
        waiting.until_moved({"query_tower": {"stable": 2}})
    with pytest.raises(UserError, match="it serves none of retrieval"):
        waiting.until_loaded({"retrieval": [1]})


def test_a_version_that_cannot_be_loaded_is_told_at_once(base_path, server):
    (base_path / "3").mkdir()
    (base_path / "3" / "saved_model.pb").write_bytes(b"no model")
    follow(server, config(base_path, {1, 3}, {"stable": 1}))

    with pytest.raises(UserError, match="query_tower version 3 cannot be loaded: .* is damaged"):
        servers(server, []).until_loaded({"query_tower": [1, 3]})


def test_a_server_that_is_not_there_is_told_as_such():
    waiting = Servers(["127.0.0.1:1"], 0.1, [].append)

    with pytest.raises(UserError, match="127.0.0.1:1 did not follow within 0.1 s: UNAVAILABLE"):
        waiting.until_loaded({"retrieval": [1]})


def test_a_pause_tells_what_it_is_for():
    told = []

    Pause(0.0, told.append).until_loaded({"retrieval": [1, 2]})
    Pause(0.0, told.append).until_moved({"retrieval": {"stable": 2}})

    assert told == [
        "waiting 0 s for servers to load versions 1, 2",
        "waiting 0 s for servers to follow the labels",
    ]

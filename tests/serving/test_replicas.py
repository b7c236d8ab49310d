"""Three servers behind one client: one is killed, one is added, a version rolls through them."""

import signal
import subprocess
import sys
import threading

import pytest

from serving.client import RetrievalClient
from tests.serving import toy_models
from tests.serving.conftest import free_port, is_healthy, wait_until
from tests.serving.toy_models import EAST_QUERY

NUM_CLIENTS = 4
PAUSE_S = 0.02  # Of a client between two queries: servers that start need the processor.
BEST = {1: "a", 2: "d"}  # The second version is mirrored.


class Replica:
    """A server as a process of its own, on a port that stays the same."""

    def __init__(self, base_path):
        self.base_path, self.port, self.process = base_path, free_port(), None

    def start(self, version):
        config = self.base_path.parent / f"{self.port}.config"
        config.write_text(
            f'model_config_list {{ config {{ name: "retrieval" base_path: "{self.base_path}" '
            f"model_version_policy {{ specific {{ versions: {version} }} }} }} }}"
        )
        command = [sys.executable, "-m", "serving.server", f"--model_config_file={config}"]
        flags = [f"--port={self.port}", "--drain_seconds=1"]
        self.process = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL)

    def wait_until_ready(self):
        wait_until(lambda: is_healthy(f"127.0.0.1:{self.port}"), timeout_s=120)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)


@pytest.fixture
def replicas(tmp_path):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    toy_models.write_retrieval(base_path, 2, mirrored=True)
    found = [Replica(base_path) for _ in range(3)]
    yield found
    for replica in found:
        if replica.process:
            replica.process.kill()
            replica.process.wait()


class Asking:
    """Asks one query after the other, until told to stop; notes what goes wrong."""

    def __init__(self, target):
        self.target, self.stopped = target, threading.Event()
        self.versions, self.failures = [], []
        self.threads = [threading.Thread(target=self._ask) for _ in range(NUM_CLIENTS)]

    def _ask(self):
        with RetrievalClient(self.target, timeout_s=60.0) as client:
            while not self.stopped.wait(PAUSE_S):
                try:
                    answer = client.recommend_one(EAST_QUERY, k=1)
                except Exception as error:
                    self.failures.append(error)
                    continue
                if answer.candidate_ids != [BEST[answer.model_version]]:
                    self.failures.append(answer)
                self.versions.append(answer.model_version)

    def more(self, count=100):
        """Waits for so many more answers."""
        wanted = len(self.versions) + count
        wait_until(lambda: len(self.versions) >= wanted or self.failures, timeout_s=60)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.slow
def test_replicas_come_go_and_change_their_version_without_a_failure(replicas):
    first, second, third = replicas
    first.start(1)
    second.start(1)
    first.wait_until_ready()
    second.wait_until_ready()
    addresses = ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
    with Asking(f"ipv4:{addresses}") as asking:
        asking.more()
        third.start(1)  # One is added.
        third.wait_until_ready()
        asking.more()
        first.stop(signal.SIGKILL)  # One is lost, and comes back with the new version,
        asking.more()
        first.start(2)
        first.wait_until_ready()
        for replica in (second, third):  # which then takes its turn at the others.
            replica.stop()
            asking.more()
            replica.start(2)
            replica.wait_until_ready()
        asking.more()
        before = len(asking.versions)
        asking.more()

    assert asking.failures == []
    assert set(asking.versions) == {1, 2}
    assert set(asking.versions[before:]) == {2}

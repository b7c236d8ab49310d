"""Several devices or machines train what one would; a lost one is told, and not the end."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import distributed_training, every_kind
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.folders import MANIFEST
from tfrs_twotower.schema.training import Training
from tfrs_twotower.training import distribution
from tfrs_twotower.training.distribution import in_shares, make_strategy, report_lost_workers
from tfrs_twotower.training.train import train

ROOT = Path(__file__).parents[3]
SCRIPT = [sys.executable, "-m", "tests.distributed_training"]
TIMEOUT_S = 400


# --- shares ---------------------------------------------------------------------------------


def batches() -> tf.data.Dataset:
    """Two batches of five examples with two shared negatives, as training reads them."""

    def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "rows": 10 * number + tf.range(5, dtype=tf.int64),
            "known": tf.RaggedTensor.from_row_lengths(tf.range(6), [2, 0, 1, 3, 0]),
            "negatives": {"rows": 100 * number + tf.range(2, dtype=tf.int64)},
        }

    return tf.data.Dataset.range(2).map(batch)


def test_the_shares_of_a_batch_are_its_rows_in_order():
    shares = list(in_shares(batches(), range(2), 2))

    assert [share["rows"].numpy().tolist() for share in shares] == [
        [0, 1],
        [2, 3, 4],
        [10, 11],
        [12, 13, 14],
    ]
    assert [share["known"].to_list() for share in shares[:2]] == [
        [[0, 1], []],
        [[2], [3, 4, 5], []],
    ]
    negatives = [share["negatives"]["rows"].numpy().tolist() for share in shares]
    assert negatives == [[0], [1], [100], [101]]


def test_a_worker_gives_the_shares_of_its_own_replicas_only():
    shares = list(in_shares(batches().take(1), range(2, 4), 4))

    assert [share["rows"].numpy().tolist() for share in shares] == [[2], [3, 4]]


# --- who takes part -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="absent"),
        pytest.param("{", id="not-json"),
        pytest.param('{"cluster": {"worker": ["a:1"]}}', id="no-task"),
        pytest.param(
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            id="index-beyond",
        ),
    ],
)
def test_workers_that_are_not_named_are_asked_for_with_an_example(monkeypatch, text):
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)

    with pytest.raises(UsageError, match="TF_CONFIG in the environment of every worker") as caught:
        make_strategy(Training(distribution="multi_worker"))

    message = str(caught.value)
    assert "host1:2222" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        pytest.param(tf.errors.UnavailableError(None, None, "Socket closed"), True, id="closed"),
        pytest.param(
            tf.errors.InternalError(None, None, "Collective ops is aborted by: task:1 is gone"),
            True,
            id="passed-on",
        ),
        pytest.param(tf.errors.InternalError(None, None, "cuDNN: bad param"), False, id="bug"),
        pytest.param(
            tf.errors.FailedPreconditionError(None, None, "Table not initialized"),
            False,
            id="state",
        ),
        pytest.param(ValueError("shapes"), False, id="python"),
    ],
)
def test_a_worker_is_reported_lost_only_where_it_is(monkeypatch, error, is_lost):
    monkeypatch.setattr(distribution, "_has_workers", lambda strategy: True)
    expected = (
        pytest.raises(UserError, match="a worker was lost")
        if is_lost
        else pytest.raises(type(error), match=str(error)[-12:])
    )

    with expected, report_lost_workers(tf.distribute.get_strategy()):
        raise error


def test_without_other_workers_nobody_is_lost():
    error = tf.errors.UnavailableError(None, None, "Socket closed")

    with (
        pytest.raises(tf.errors.UnavailableError),
        report_lost_workers(tf.distribute.get_strategy()),
    ):
        raise error


# --- equality -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "prepared"
    return every_kind.write_prepared(folder, distributed_training.config("one_device"))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("one") / "run"
    train(distributed_training.config("one_device"), prepared, folder)
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(folder / "best.weights"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name.startswith("model/") and "optimizer" not in name
    }


def assert_trained_alike(run: Path, other: Path) -> None:
    """The training and its refit."""
    for part in (".", "refit"):
        ours, theirs = weights(run / part), weights(other / part)
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, theirs[name], atol=1e-5, err_msg=name)
    logs = [json.loads((each / "metrics.json").read_text()) for each in (run, other)]
    for kind in ("epochs", "refit_epochs"):
        losses = [[epoch["loss"] for epoch in of_run[kind]] for of_run in logs]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.slow
def test_two_devices_train_what_one_trains(prepared, one_device, tmp_path):
    command = [*SCRIPT, str(prepared), str(tmp_path / "run"), "mirrored"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]

    assert_trained_alike(tmp_path / "run", one_device)


def start_workers(data: Path, run: Path, more: list[list[str]]) -> list["subprocess.Popen[str]"]:
    """Starts workers on the loopback, each with further words of its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in more]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [
        subprocess.Popen(
            [*SCRIPT, str(data), str(run), "multi_worker", *words],
            cwd=ROOT,
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": cluster, "task": {"type": "worker", "index": index}}
                ),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, words in enumerate(more)
    ]


def ended(workers: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Exit code and stderr of each; none outlives the test."""
    try:
        said = [worker.communicate(timeout=TIMEOUT_S)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [(worker.returncode, text) for worker, text in zip(workers, said, strict=True)]


@pytest.mark.slow
def test_two_workers_train_what_one_trains_and_a_lost_one_is_told_and_resumed(
    prepared, one_device, tmp_path
):
    steps_an_epoch = 4
    run = tmp_path / "run"

    lost = ended(start_workers(prepared, run, [[], [str(steps_an_epoch + 2)]]))

    assert lost[1][0] == -signal.SIGKILL
    code, said = lost[0]
    assert code == 1, said[-3000:]
    assert "a worker was lost" in said
    assert "start all workers again with `resume=True`" in said
    assert "Traceback" not in said
    assert not (run / MANIFEST).exists()

    for code, said in ended(start_workers(prepared, run, [["resume"], ["resume"]])):
        assert code == 0, said[-3000:]
    assert_trained_alike(run, one_device)

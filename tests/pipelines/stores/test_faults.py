"""What goes wrong on clusters and object stores: the folder is right, or it is not published."""

import random
import threading
from contextlib import suppress

import pytest

from pipelines.prepare import pipeline, prepare
from tests.pipelines.stores import attempts
from tests.pipelines.stores.memory import (
    AFTER,
    BEFORE,
    CHANGES,
    STORE,
    Unavailable,
)
from tests.pipelines.stores.published import MANIFEST, fetch, is_published
from tfrs_twotower.schema import parse_config

OUTPUT = "mem://bucket/prepared"
NUM_FAILURES = 25
NUM_RUNS_WITH_RETRIES = 6
CONFIG = """
columns: {timestamp: t}
filters: {min_per_query: 2}
features:
  query: {user_id: {kind: id}, history: {kind: history, length: 3}}
  context: {device: {kind: categorical}, dwell: {kind: number}}
  candidate: {item_id: {kind: id}, genre: {kind: categorical}}
"""


def write_dataset(folder, seed):
    """Two logs differ in every event."""
    chance = random.Random(seed)
    folder.mkdir()
    lines = [
        f"u{chance.randrange(30)},i{chance.randrange(20)},{chance.randrange(5000)},"
        f"{chance.choice(['tv', 'web', ''])},{chance.random():.3f}"
        for _ in range(400)
    ]
    text = "\n".join(["user_id,item_id,t,device,dwell", *lines])
    (folder / "interactions.csv").write_text(text + "\n")
    candidates = "".join(f"i{n},g{n % 3}\n" for n in range(20))
    (folder / "candidates.csv").write_text("item_id,genre\n" + candidates)
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two datasets."""
    folder = tmp_path_factory.mktemp("datasets")
    return [write_dataset(folder / str(seed), seed) for seed in (1, 2)]


@pytest.fixture
def run(store, monkeypatch):
    """Prepares one of the datasets in the store."""

    def run_one(dataset, num_partitions=3, **options):
        monkeypatch.setattr(pipeline, "MIN_PARTITIONS", num_partitions)
        return prepare(parse_config(CONFIG, "c"), str(dataset), OUTPUT, **options)

    return run_one


@pytest.fixture(scope="module")
def expected(datasets, tmp_path_factory):
    """What the folder of each dataset says when nothing goes wrong."""
    said = []
    for dataset in datasets:
        folder = tmp_path_factory.mktemp("expected")
        prepare(parse_config(CONFIG, "c"), str(dataset), str(folder))
        said.append(fetch(str(folder), tmp_path_factory.mktemp("fetched")))
    assert said[0] != said[1]
    return said


@pytest.mark.slow
def test_nothing_goes_wrong(run, datasets, expected, tmp_path):
    run(datasets[0])

    assert fetch(OUTPUT, tmp_path) == expected[0]


@pytest.mark.slow
def test_fewer_partitions_replace_more(run, datasets, expected, tmp_path):
    run(datasets[0], num_partitions=8)

    run(datasets[1], num_partitions=3, overwrite=True)

    assert fetch(OUTPUT, tmp_path) == expected[1]


class Killed(BaseException):
    """The launcher is gone: no `except Exception` of its may catch this."""


def changes_of_a_run(run, store, dataset):
    """How many changes a run makes to the store."""
    run(dataset)
    count = sum(operation.kind in CHANGES for operation in store.log)
    store.clear()
    return count


@pytest.mark.slow
@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7])
def test_a_rerun_passes_a_job_whose_launcher_was_killed(
    run, store, datasets, expected, tmp_path, part
):
    """The orphan stands still, the rerun does its whole work, and then the orphan goes on."""
    number = int(part * changes_of_a_run(run, store, datasets[0]))
    seen, is_reached, is_rerun = 0, False, False

    def hook(operation, when):
        nonlocal seen, is_reached, is_rerun
        if when == AFTER or operation.kind not in CHANGES or is_reached != is_rerun:
            return
        seen += 1
        if is_rerun and operation.path == f"{OUTPUT}/{MANIFEST}":
            # Only a launcher writes it, and the orphan has none.
            raise Killed
        if seen == number:
            is_reached = True
            run(datasets[1])
            is_rerun = True

    store.hook = hook
    with suppress(Exception, Killed):
        run(datasets[0])
    store.hook = None

    assert is_rerun
    assert fetch(OUTPUT, tmp_path) == expected[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_two_launchers_at_once(store, datasets, expected, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(pipeline, "MIN_PARTITIONS", 3)
    chance = random.Random(seed)
    ended = [None, None]

    def launch(number):
        try:
            prepare(parse_config(CONFIG, "c"), str(datasets[number]), OUTPUT)
        except Exception as error:
            ended[number] = error

    def hook(operation, when):
        # Gives the others their turn, more or less often.
        if chance.random() < 0.5:
            turn.wait(chance.random() * 0.002)

    turn = threading.Event()
    store.hook = hook
    threads = [threading.Thread(target=launch, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.hook = None

    won = [number for number in (0, 1) if ended[number] is None]
    assert all(error is None or str(error) for error in ended)
    if won:
        assert fetch(OUTPUT, tmp_path) in [expected[number] for number in won]
    else:
        assert not is_published(OUTPUT)


@pytest.fixture(scope="module")
def replaced(datasets):
    """The objects of a finished folder, and how many operations it takes to replace it."""
    STORE.clear()
    prepare(parse_config(CONFIG, "c"), str(datasets[0]), OUTPUT)
    blobs = dict(STORE.blobs)
    STORE.log.clear()
    prepare(parse_config(CONFIG, "c"), str(datasets[1]), OUTPUT, overwrite=True)
    num_operations = len(STORE.log)
    STORE.clear()
    return blobs, num_operations


def outcome_of_single_failure(seed, datasets, replaced, expected, folder):
    """Replaces a folder while one operation fails, before or after it took effect.

    Returns:
        What is wrong with the outcome, if anything.
    """
    blobs, num_operations = replaced
    chance = random.Random(seed)
    number, phase = chance.randrange(num_operations), chance.choice([BEFORE, AFTER])
    failed = []

    def hook(operation, when):
        if operation.number == number and when == phase:
            failed.append(f"{phase} {operation.kind} {operation.path}")
            raise Unavailable(f"503 {operation.path}")

    STORE.clear()
    STORE.blobs = dict(blobs)
    STORE.hook = hook
    try:
        prepare(parse_config(CONFIG, "c"), str(datasets[1]), OUTPUT, overwrite=True)
        allowed, told = [expected[1]], "503"
    except Exception as error:
        # Of an operation that took effect and said otherwise, either folder is right.
        allowed, told = expected, str(error)
    STORE.hook = None
    try:
        is_right = not is_published(OUTPUT) or fetch(OUTPUT, folder) in allowed
    except FileNotFoundError as error:
        return f"seed {seed}: {failed}: the manifest names what is not there: {error}"
    if not is_right:
        return f"seed {seed}: {failed}: the folder is wrong"
    return None if "503" in told else f"seed {seed}: {failed}: not told: {told}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_single_failures(datasets, replaced, expected, tmp_path):
    wrong = []
    for seed in range(NUM_FAILURES):
        folder = tmp_path / str(seed)
        wrong += filter(
            None, [outcome_of_single_failure(seed, datasets, replaced, expected, folder)]
        )
    print(f"{NUM_FAILURES} runs, seeds 0 to {NUM_FAILURES - 1}")

    assert wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_RUNS_WITH_RETRIES))
def test_bundles_fail_once_each_and_are_attempted_again(
    seed, store, datasets, replaced, expected, tmp_path
):
    """Faults come in most bundles of a job, at any of their operations, and none of it shows."""
    blobs, _ = replaced
    chance = random.Random(seed)
    share = chance.choice([0.3, 0.1, 0.03])

    def hook(operation, when):
        if happened and happened[-1] == "begun" and chance.random() < share / 2:
            raise Unavailable(f"503 {operation.path}")

    store.blobs = dict(blobs)
    with attempts.bundles(twice=False, retried=True) as happened:
        store.hook = hook
        prepare(parse_config(CONFIG, "c"), str(datasets[1]), OUTPUT, overwrite=True)
    store.hook = None
    print(f"seed {seed}: {happened.count('retried')} failures")

    assert "retried" in happened
    assert fetch(OUTPUT, tmp_path) == expected[1]


@pytest.mark.slow
def test_every_bundle_is_attempted_twice_at_once(run, store, datasets, expected, tmp_path):
    with attempts.bundles(twice=True, retried=False) as happened:
        run(datasets[0], beam_args=attempts.BEAM_ARGS)

    assert "spare" in happened
    assert fetch(OUTPUT, tmp_path) == expected[0]

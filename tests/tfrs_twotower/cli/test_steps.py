"""Each step runs when what it depends on has changed, and only then."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import tiny_world
from tfrs_twotower.cli import main, steps
from tfrs_twotower.cli.processes import Command, Cost
from tfrs_twotower.cli.steps import Folders, Step, dataset_step, model_steps, run_steps
from tfrs_twotower.cli.workdir import LOCK_FILE, as_json, folder_digest, locked
from tfrs_twotower.publishing.models_folder import read_config
from tfrs_twotower.schema import UsageError, UserError, differences, load_config
from tfrs_twotower.schema.folders import MANIFEST, MARKER

NOTHING = Cost(0.0, 0)


class World:
    """A step `first` that copies a text, and a step `second` that adds to what the first wrote."""

    def __init__(self, root) -> None:
        self.root, self.text, self.code, self.calls = root, "one", 0, []

    def steps(self):
        first, second = self.root / "first", self.root / "second"
        of_first = lambda: [d] if (d := folder_digest(first, MANIFEST)) else []  # noqa: E731
        of_second = lambda: [d] if (d := folder_digest(second, MANIFEST)) else []  # noqa: E731
        return [
            Step("first", ("--to", first), lambda: {"text": self.text}, of_first, first, True),
            Step("second", (), lambda: {"first": of_first()}, of_second),
        ]

    def call(self, words):
        self.calls.append(words)
        if not self.code:
            folder = self.root / words[0]
            folder.mkdir(exist_ok=True)
            (folder / MARKER).unlink(missing_ok=True)
            (folder / MANIFEST).write_text(json.dumps(self.text))
        return self.code, NOTHING

    def run(self, **options):
        self.calls.clear()
        outcomes = run_steps(self.steps(), self.root, self.call, **options)
        assert [one.step for one in outcomes] == ["first", "second"]
        return {one.step: one.reason for one in outcomes if one.cost}


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_change_reruns_a_step_and_what_depends_on_it(world):
    assert world.run() == {"first": "not made yet", "second": "not made yet"}
    assert world.run() == {}
    world.text = "two"
    assert world.run() == {"first": "changed: text", "second": "changed: first"}
    assert world.calls[0] == ["first", "--to", str(world.root / "first"), "--overwrite"]


def test_a_new_version_of_the_code_reruns_all(world, monkeypatch):
    world.run()
    monkeypatch.setattr("tfrs_twotower.cli.steps.__version__", "99")

    assert world.run() == {"first": "changed: code_version", "second": "changed: code_version"}


def test_a_step_that_fails_ends_the_run_and_is_the_first_of_the_next(world):
    world.code = 1
    with pytest.raises(UserError, match="first failed, see above"):
        world.run()
    assert len(world.calls) == 1
    world.code = 2
    with pytest.raises(UsageError):
        world.run()
    world.code = 0

    assert world.run() == {"first": "was interrupted", "second": "not made yet"}


def test_an_interrupted_step_is_resumed_if_it_can_be_and_nothing_has_changed(world):
    def interrupted(words):
        (world.root / "first").mkdir(exist_ok=True)
        (world.root / "first" / MARKER).touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="interrupted in first: the same command goes on"):
        run_steps(world.steps(), world.root, interrupted)
    assert world.run()["first"] == "was interrupted"
    assert world.calls[0][-1] == "--resume"

    world.text = "two"
    with pytest.raises(KeyboardInterrupt):
        run_steps(world.steps(), world.root, interrupted)
    world.text = "three"
    assert world.run()["first"] == "changed: text"
    assert "--resume" not in world.calls[0]


def test_a_folder_that_others_finished_is_replaced_on_request_only(world):
    (world.root / "first").mkdir()
    (world.root / "first" / MANIFEST).write_text("mine")
    for _ in range(2):  # That it was refused once gives no right to it.
        with pytest.raises(UsageError, match="not as this command left it: pass --overwrite"):
            world.run()
    assert world.calls == []
    world.run(overwrite=True)
    assert "--overwrite" in world.calls[0]

    (world.root / "first" / MANIFEST).write_text("mine again")
    with pytest.raises(UsageError, match="pass --overwrite"):
        world.run()


def test_a_data_set_is_written_again_for_another_source_not_for_an_edited_config(tmp_path):
    source, folders = tmp_path / "source", Folders(tmp_path / "dataset", tmp_path / "work")
    for folder in (source, folders.dataset):
        folder.mkdir()
    (source / "u.data").write_text("1")
    (folders.dataset / MANIFEST).write_text("{}")
    folders.config.write_text("training: {epochs: 3}")
    step = dataset_step("movielens-100k", source, folders)
    inputs, found = step.inputs(), step.found()

    folders.config.write_text("training: {epochs: 4}")
    assert (step.inputs(), step.found()) == (inputs, found)
    (source / "u.data").write_text("2")
    assert step.inputs() != inputs


def test_a_prepared_folder_is_what_its_manifest_names(tmp_path):
    def prepared(run: str, sha256: str = "d1") -> Folders:
        folders = Folders(tmp_path / "dataset", tmp_path / run)
        (folders.prepared / run).mkdir(parents=True)
        (folders.prepared / run / "a").write_text("123")
        files = {"queries": [{"path": f"{run}/a", "bytes": 3, "rows": 1, "sha256": sha256}]}
        manifest = {"kind": "prepared", "run": run, "files": files}
        (folders.prepared / MANIFEST).write_text(json.dumps(manifest))
        return folders

    def found(folders: Folders) -> list[str]:
        return model_steps(folders)[0].found()

    tiny_world.write_dataset(tmp_path / "dataset")
    first, again, other = prepared("run-1"), prepared("run-2"), prepared("run-3", "d2")
    whole = found(first)
    assert found(again) == whole != found(other)
    (first.prepared / "run-0").mkdir()  # Of a preparation that was killed.
    assert found(first) == whole
    (first.prepared / "run-1" / "a").unlink()
    assert found(first) != whole
    (first.prepared / MANIFEST).unlink()
    assert found(first) == []


@pytest.fixture
def folders(tmp_path):
    dataset = tiny_world.write_dataset(tmp_path / "dataset")
    _edit(dataset / "twotower.yaml", "epochs: 20", "epochs: 1")
    with (dataset / "twotower.yaml").open("a") as file:
        file.write("export: {retrieval: false}\n")  # Quicker.
    return Folders(dataset, tmp_path / "work")


def _edit(path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def _run(folders, call=lambda words: (main(words), NOTHING)):
    folders.workdir.mkdir(exist_ok=True)
    outcomes = run_steps(model_steps(folders), folders.workdir, call)
    assert [one.step for one in outcomes] == ["prepare", "train", "evaluate", "export"]
    return {one.step: one.reason for one in outcomes if one.cost}


@pytest.mark.slow
def test_the_steps_of_a_log_run_again_as_what_they_read_has_changed(folders, capfd):
    assert _run(folders) == dict.fromkeys(
        ("prepare", "train", "evaluate", "export"), "not made yet"
    )
    assert _run(folders) == {}

    _edit(folders.config, "retrieval: false", "retrieval: false, default_k: 3")
    assert _run(folders) == {"export": "changed: config.export.default_k"}
    assert read_config(folders.models, 2).export.default_k == 3
    shutil.rmtree(folders.models)
    assert _run(folders) == {"export": "its output is gone"}

    _edit(folders.config, "epochs: 1", "epochs: 2")
    assert _run(folders) == {
        "train": "changed: config.training.epochs",
        "evaluate": "changed: run",
        "export": "changed: run",
    }

    log = folders.dataset / "interactions.csv"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))

    def killed_in_train(words):
        if words[0] == "train":
            (folders.run / MARKER).touch()
            (folders.run / MANIFEST).unlink()
            raise KeyboardInterrupt
        return main(words), NOTHING

    with pytest.raises(KeyboardInterrupt, match="interrupted in train"):
        _run(folders, killed_in_train)
    shutil.rmtree(folders.run)
    assert _run(folders) == {
        "train": "was interrupted",
        "evaluate": "changed: prepared, run",
        "export": "changed: prepared, run",
    }
    assert _run(folders) == {}


def test_what_is_set_for_one_run_reaches_every_step(folders, monkeypatch):
    made: list[Step] = []
    monkeypatch.setattr(steps, "run_steps", lambda of, *_, **__: made.extend(of) or [])
    written = folders.config.read_text()
    words = ["run", str(folders.dataset), "--workdir", str(folders.dataset)]
    settings = ["split.by=random", "training.epochs=3", "export.default_k=4"]

    assert main([*words, *(word for one in settings for word in ("--set", one))]) == 0

    assert folders.config.read_text() == written
    changed = {
        step.name: [
            path for path, *_ in differences(as_json(base.inputs()), as_json(step.inputs()))
        ]
        for base, step in zip(model_steps(folders), made, strict=True)
    }
    assert changed == {
        "prepare": ["config.split.by"],
        "train": ["config.split.by", "config.training.epochs"],
        "evaluate": [],
        "export": ["config.export.default_k"],
    }
    named = [of[of.index("--config") + 1] for step in made if "--config" in (of := step.options)]
    assert len(named) == 3
    [config] = map(load_config, set(named))
    assert (config.split.by, config.training.epochs, config.export.default_k) == ("random", 3, 4)


def test_a_setting_that_is_wrong_begins_nothing(folders, capsys):
    words = ["run", str(folders.dataset), "--workdir", str(folders.workdir)]

    assert main([*words, "--set", "training.epoch=3"]) == 2

    assert "training.epoch" in capsys.readouterr().err
    assert not folders.workdir.exists()


def test_the_code_of_a_users_own_towers_is_an_input(folders, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    _edit(folders.config, "towers: {embedding_dim: 8}", 'towers: {build: "own_of_test:build"}')
    code = tmp_path / "own_of_test.py"
    code.write_text("raise RuntimeError  # Only read, never imported.\n")

    def inputs():
        return next(step for step in model_steps(folders) if step.name == "train").inputs()

    before = inputs()
    assert before["own_code"].keys() == {"own_of_test.py"}
    code.write_text("pass\n")
    assert inputs()["own_code"] != before["own_code"]


def test_a_command_tells_its_end_and_what_it_took(capfd):
    command = Command(["config"], results_to_stderr=True)
    code, cost = command.wait()

    assert code == 0
    assert cost.peak_bytes > 1e6
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("$ twotower config\n")
    assert "columns:" in shown.err


def test_a_command_that_ends_by_itself_is_known_to_have_ended(capfd):
    command = Command(["no-such-command"])
    while not command.has_ended():
        time.sleep(0.01)

    assert command.wait()[0] == 2


def test_run_of_a_folder_without_config_says_how_to_get_one(tmp_path, capsys):
    assert main(["run", str(tmp_path)]) == 1

    assert "twotower init" in capsys.readouterr().err


def test_run_tells_of_another_one_in_the_folder(folders, capsys):
    with locked(folders.workdir):
        assert main(["run", str(folders.dataset), "--workdir", str(folders.workdir)]) == 1

    assert "another `twotower run`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(folders):
    words = ["run", str(folders.dataset), "--workdir", str(folders.workdir), "--json"]
    command = [sys.executable, "-m", "tfrs_twotower.cli", *words]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (folders.run / MARKER).exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()

    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert "is at work" in second.stderr
    # The step that was left behind ends, and lets go of the folder.
    with (folders.workdir / LOCK_FILE).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    third = subprocess.run(command, capture_output=True, text=True, check=True)

    steps = {step["step"]: step for step in json.loads(third.stdout)["steps"]}
    assert {name: step["reason"] for name, step in steps.items()} == {
        "prepare": None,
        "train": "was interrupted",
        "evaluate": "not made yet",
        "export": "not made yet",
    }
    assert (folders.models / "retrieval_exact" / "1").is_dir()


@pytest.mark.slow
def test_a_terminated_run_stops_its_step(folders):
    words = ["run", str(folders.dataset), "--workdir", str(folders.workdir)]
    run = subprocess.Popen([sys.executable, "-m", "tfrs_twotower.cli", *words])
    while not list(folders.prepared.glob("run-*")):
        assert run.poll() is None
        time.sleep(0.05)

    run.terminate()

    assert run.wait() == 128 + signal.SIGTERM
    with locked(folders.workdir):  # Nobody holds it any more.
        assert not (folders.prepared / MANIFEST).exists()

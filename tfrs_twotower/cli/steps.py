"""The steps from a dataset folder to a models folder: their commands, and what they depend on."""

import glob
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from tfrs_twotower.cli.output import print_progress, print_table
from tfrs_twotower.cli.processes import Command, Cost, ended_by_sigterm
from tfrs_twotower.cli.workdir import (
    Record,
    Records,
    as_json,
    file_digests,
    folder_digest,
    locked,
    why_due,
)
from tfrs_twotower.schema import Config, UsageError, UserError, dump_config, load_config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.file_shapes import local_files
from tfrs_twotower.schema.folders import MANIFEST, read_manifest
from tfrs_twotower.schema.models_layout import EXTRA_ASSETS, RETRIEVAL_EXACT
from tfrs_twotower.schema.runs import (
    BEST_WEIGHTS,
    CONFIG_FILE,
    EVALUATION,
    INPUTS_FILE,
    METRICS_FILE,
    REFIT,
    VOCABULARIES,
)
from tfrs_twotower.schema.version import __version__

KINDS = ("interactions", "candidates", "queries")
DATASET_CONFIG, OVERRIDDEN_CONFIG = "twotower.yaml", "twotower-run.yaml"
ORACLE_FILE = "oracle.parquet"  # The sample knows what the best possible ranker reaches.
RUN_FILES = (
    *(MANIFEST, CONFIG_FILE, INPUTS_FILE, METRICS_FILE),
    *(f"{BEST_WEIGHTS}*", f"{REFIT}/{BEST_WEIGHTS}*", f"{VOCABULARIES}/*"),
)
TEST = "test-full"

# Runs a command line of `twotower`; returns its exit code and what it took.
Call = Callable[[Sequence[str]], tuple[int, Cost]]


@dataclass(frozen=True)
class Folders:
    """Where the steps read and write.

    `overridden`: the config that they read in place of that of the dataset folder.
    """

    dataset: Path
    workdir: Path
    overridden: Path | None = None

    @property
    def config(self) -> Path:
        """The config that the steps read."""
        return self.overridden or self.dataset / DATASET_CONFIG

    @property
    def prepared(self) -> Path:
        """The prepared folder."""
        return self.workdir / "prepared"

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.workdir / "run"

    @property
    def models(self) -> Path:
        """The models folder."""
        return self.workdir / "models"


def override(folders: Folders, config: Config) -> Folders:
    """Writes a config to the working folder, for the steps to read in place of the dataset's."""
    path = folders.workdir / OVERRIDDEN_CONFIG  # The working folder may be that of the dataset.
    path.write_text(dump_config(config), encoding="utf-8")
    return replace(folders, overridden=path)


@dataclass(frozen=True)
class Step:
    """A command, and when it must run again.

    Attributes:
        name: Of the command.
        options: Its options.
        inputs: What the step depends on now, as nested mappings of texts, numbers and digests.
        found: Digests of its finished outputs that are there now, the newest last.
        replaces: The folder that it writes anew, with `--overwrite`; None: it only adds.
        resumes: Whether it has `--resume`.
    """

    name: str
    options: tuple[object, ...]
    inputs: Callable[[], dict[str, Any]]
    found: Callable[[], list[str]]
    replaces: Path | None = None
    resumes: bool = False


class Outcome(NamedTuple):
    """What became of a step: why it ran and what it took, both None where it was skipped."""

    step: str
    reason: str | None
    cost: Cost | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        cost = self.cost._asdict() if self.cost else {}
        return {"step": self.step, "ran": self.cost is not None, "reason": self.reason, **cost}


def print_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Prints which steps ran, why, and what they took."""
    rows = []
    for step, reason, cost in outcomes:
        took = [f"{cost.seconds:.0f}", f"{cost.peak_bytes / 1e9:.1f} GB"] if cost else ["", ""]
        rows.append([step, reason or "skipped: unchanged", *took])
    print_table("Steps", ["step", "why", "seconds", "peak memory"], rows, left=2)


@contextmanager
def working(workdir: Path, *, results_to_stderr: bool = False) -> Iterator[Call]:
    """Keeps other runs out of a working folder, and gives what runs the commands of steps in it.

    Raises:
        UserError: If another run is in it.
    """

    def call(words: Sequence[str], lock: int) -> tuple[int, Cost]:
        command = Command(words, keeps_open=[lock], results_to_stderr=results_to_stderr)
        return command.wait()

    with locked(workdir) as lock, ended_by_sigterm():
        yield partial(call, lock=lock)


def run_steps(
    steps: Iterable[Step], workdir: Path, call: Call, *, overwrite: bool = False
) -> list[Outcome]:
    """Runs the steps whose inputs or outputs are not what they were when they last ended.

    Args:
        steps: In order; what an earlier one writes is an input of later ones.
        workdir: Where it is recorded, see `tfrs_twotower.cli.workdir`.
        call: Runs a command.
        overwrite: Whether finished folders may be replaced that are not as these steps left them.

    Raises:
        UserError: If a step fails.
        UsageError: If a folder is not as these steps left it.
        KeyboardInterrupt: If a step is interrupted.
    """
    records, outcomes = Records(workdir), []
    for step in steps:
        inputs = as_json({"code_version": __version__, **step.inputs()})
        reason = why_due(records[step.name], inputs, step.found())
        print_progress(f"{step.name}: {reason or 'unchanged, skipped'}")
        cost = _run(step, inputs, records, call, overwrite) if reason else None
        outcomes.append(Outcome(step.name, reason, cost))
    return outcomes


def _run(step: Step, inputs: dict[str, Any], records: Records, call: Call, overwrite: bool) -> Cost:
    record, found = records[step.name], step.found()
    is_ours = record is not None and record.output in (None, *found)
    if step.replaces and found and not (is_ours or overwrite):
        raise UsageError(
            f"{step.replaces} is finished and not as this command left it: pass --overwrite to "
            "replace it, or name another --workdir"
        )
    words = [step.name, *map(str, step.options)]
    if step.replaces and found:
        words.append("--overwrite")
    if step.resumes and record == (inputs, None) and not found:
        words.append("--resume")
    records[step.name] = Record(inputs, None)
    try:
        code, cost = call(words)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"interrupted in {step.name}: the same command goes on from there"
        ) from interrupt
    if code:
        error = UsageError if code == UsageError.exit_code else UserError
        raise error(f"{step.name} failed, see above: fix it and run the same command again")
    records[step.name] = Record(inputs, step.found()[-1])
    return cost


def dataset_step(name: str, source: Path | None, folders: Folders) -> Step:
    """Writes a data set that `twotower dataset` knows; a config that is edited later stays.

    Args:
        name: Of the data set.
        source: Folder of the original files, if it has them.
        folders: Where to write.
    """

    def inputs() -> dict[str, Any]:
        return {"name": name, "source": file_digests(source, ["*"]) if source else {}}

    return Step(
        "dataset",
        (name, "--output", folders.dataset, *(["--source", source] if source else [])),
        inputs,
        lambda: _one(folder_digest(folders.dataset, MANIFEST, [MANIFEST])),
        replaces=folders.dataset,
    )


def model_steps(folders: Folders) -> list[Step]:
    """From a dataset folder with its config to a version in the models folder.

    Raises:
        UsageError: If the config is wrong.
    """
    config = load_config(folders.config)
    own_code = _own_code(config)
    oracle = file_digests(folders.dataset, [ORACLE_FILE])

    def prepared() -> list[str]:
        return _prepared_digests(folders.prepared)

    def run() -> list[str]:
        return _one(folder_digest(folders.run, MANIFEST, RUN_FILES))

    def trained() -> dict[str, Any]:
        return {"prepared": prepared(), "run": run(), "own_code": own_code}

    of_config, of_data = ("--config", folders.config), ("--data", folders.prepared)
    of_run = ("--run", folders.run, *of_data)
    of_oracle = ("--baseline", f"oracle={folders.dataset / ORACLE_FILE}") if oracle else ()
    return [
        Step(
            "prepare",
            (*of_config, "--dataset", folders.dataset, "--output", folders.prepared),
            lambda: {
                "format": layout.FORMAT,
                "config": config.record_schema(),
                "dataset": file_digests(folders.dataset, _data_files(folders.dataset, config)),
            },
            prepared,
            replaces=folders.prepared,
        ),
        Step(
            "train",
            (*of_config, *of_data, "--output", folders.run),
            lambda: {
                "config": config.training_schema(),
                "prepared": prepared(),
                "own_code": own_code,
            },
            run,
            replaces=folders.run,
            resumes=True,
        ),
        Step(
            "evaluate",
            (*of_run, *of_oracle),
            lambda: {**trained(), "dataset": oracle},
            lambda: _one(folder_digest(folders.run / EVALUATION, f"{TEST}.json", [f"{TEST}.*"])),
        ),
        Step(
            "export",
            (*of_run, *of_config, "--output", folders.models),
            lambda: {**trained(), "config": config.export_schema()},
            lambda: _version_digests(folders.models),
        ),
    ]


def _data_files(dataset: Path, config: Config) -> list[str]:
    """Patterns that fit the files that `prepare` reads."""
    files = config.files
    found = [path for kind in KINDS for path in local_files(dataset, kind, files.path_of(kind))]
    return [glob.escape(path.relative_to(dataset).as_posix()) for path in found]


def _own_code(config: Config) -> dict[str, str]:
    """Digests of the module or package that builds a user's own towers (`towers.build`).

    What it imports from elsewhere is not looked at.
    """
    name = (config.towers.build or "").partition(":")[0].partition(".")[0]
    # The command of a step looks in the working directory first.
    spec = PathFinder.find_spec(name, [os.getcwd(), *sys.path]) if name else None
    if spec is None or spec.origin is None:  # `twotower train` reports it.
        return {}
    path = Path(spec.origin)
    is_package = spec.submodule_search_locations is not None
    return file_digests(path.parent, ["**/*.py" if is_package else path.name])


def _prepared_digests(folder: Path) -> list[str]:
    """The digest of a prepared folder: its manifest, and the sizes of the files that it names.

    Without their names: every preparation draws them anew, and other files do not count.
    """
    if not (folder / MANIFEST).is_file():
        return []
    manifest = read_manifest(folder, kind="prepared", made_by="twotower prepare")
    files = [file for group in manifest.pop("files", {}).values() for file in group]
    paths = [folder / file.pop("path") for file in files]
    sizes = [path.stat().st_size if path.is_file() else None for path in paths]
    manifest.pop("run", None)
    text = json.dumps([manifest, files, sizes], sort_keys=True)
    return [hashlib.sha256(text.encode()).hexdigest()]


def _version_digests(models: Path) -> list[str]:
    """Digests of the versions of a models folder that are whole, the newest last."""
    from tfrs_twotower.publishing import models_folder

    if not (models / models_folder.CONFIG_FILE).is_file():
        return []
    found = (
        _version_digest(models, number)
        for number in models_folder.versions(models / RETRIEVAL_EXACT)
    )
    return [digest for digest in found if digest]


def _version_digest(models: Path, version: int) -> str | None:
    from tfrs_twotower.publishing.models_folder import MODELS, PART, folders_of

    closed_by = {name: f"{EXTRA_ASSETS}/{MANIFEST}" for name in MODELS}
    digests = [
        folder_digest(models / name / str(version), closed_by.get(name, PART))
        for name in folders_of(models, version)
    ]
    return None if None in digests else "-".join(filter(None, digests))


def _one(digest: str | None) -> list[str]:
    return [] if digest is None else [digest]

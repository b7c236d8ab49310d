"""A job's output folder: each run writes files of its own, the manifest names those that belong.

    OUTPUT/manifest.json                    what the folder is, and its files; see `Run.publish`
    OUTPUT/run-<id>/<name>-<attempt>.<...>  written once, by one attempt of one worker
    OUTPUT/run-<id>/staging/...             what the steps of the run leave for one another

No worker renames, replaces or deletes a file, and no reader looks for files by a pattern. So a
bundle that is tried again, tried twice at once, or still written to after its launcher died, adds
files that no manifest names; two launchers write side by side, and the last manifest holds whole.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipelines.io import filesystem
from pipelines.io.filesystem import MaybeWrittenError, NewFile, join
from tfrs_twotower.schema import Parameter, UsageError, UserError
from tfrs_twotower.schema.errors import first_line
from tfrs_twotower.schema.folders import (
    MANIFEST,
    RUN_FOLDER,
    RUN_PREFIX,
    claim,
    tells_full_disk,
)
from tfrs_twotower.schema.interrupts import raise_if_interrupted, remembered

STAGING = "staging"
REJECTED = "rejected"  # Stays of a run that failed, to be looked at.


class WrittenFile(NamedTuple):
    """A file that a worker wrote, as the manifest names it."""

    path: str  # From the output folder.
    rows: int
    bytes: int
    sha256: str


Files = Mapping[str, Sequence[WrittenFile]]
"""The files of a folder by what they hold."""


@dataclass(frozen=True)
class Run:
    """The files of one run of a job; small, and the same in every worker."""

    output: str
    name: str  # Of the run's folder.

    @property
    def folder(self) -> str:
        """Where all that the run writes stands, but the manifest."""
        return join(self.output, self.name)

    def new_path(self, stem: str, suffix: str) -> str:
        """A path that nothing else writes, in another run or another attempt."""
        return join(self.folder, f"{stem}-{uuid.uuid4().hex[:16]}{suffix}")

    def staged_path(self, stem: str, suffix: str) -> str:
        """Likewise, of a file that goes when the run ends."""
        return self.new_path(join(STAGING, stem), suffix)

    def written(self, path: str, file: NewFile, rows: int) -> WrittenFile:
        """What the manifest says of a file that has been written."""
        return WrittenFile(path[len(self.output) :].lstrip("/"), rows, file.num_bytes, file.sha256)

    def publish(
        self, manifest: Mapping[str, Any], files: Files, *, overwrite: bool
    ) -> dict[str, Any]:
        """Makes this run what the output folder holds, then removes what it replaces.

        Args:
            manifest: What is to be said of the folder beside its files.
            files: The files that belong, and no others.
            overwrite: Whether a run that was finished meanwhile may be replaced.

        Returns:
            The manifest, as written.

        Raises:
            UsageError: If another run has finished the folder meanwhile.
            UserError: If files of the run are gone.
            KeyboardInterrupt: If there was an interrupt that nothing ended.
        """
        raise_if_interrupted()
        there = dict(filesystem.match(join(self.folder, "**")))
        named = {join(self.output, file.path): file for group in files.values() for file in group}
        for path, file in named.items():
            if there.get(path, 0) != file.bytes:
                raise UserError(
                    f"{path} is gone or not as it was written: was {self.output} cleaned while "
                    "the job ran? Run the job again."
                )
        replaced = published(self.output)
        if replaced is not None and not overwrite:
            raise UsageError(
                f"{self.output} was finished by another run meanwhile, which stands: pass ",
                Parameter("overwrite", True),
                " to replace it, or name another folder",
            )
        whole = {
            **manifest,
            "run": self.name,
            "files": {name: [file._asdict() for file in sorted(files[name])] for name in files},
        }
        text = json.dumps(whole, indent=2, sort_keys=True) + "\n"
        beside = self.new_path("manifest", ".json")
        filesystem.replace(join(self.output, MANIFEST), text.encode(), beside)
        # Whatever fails from here on leaves files that no manifest names.
        with suppress(Exception):
            filesystem.delete_below(join(self.folder, STAGING))
            others = set(there) - set(named)
            filesystem.delete(p for p in others if not p.startswith(join(self.folder, STAGING)))
        with suppress(Exception):
            if replaced is not None:
                _remove_replaced(self.output, replaced)
        return whole


@contextmanager
def output_run(output: str, *, overwrite: bool) -> Iterator[Run]:
    """Begins a run that writes an output folder; the block must end with `Run.publish`.

    Args:
        output: The folder, on any Beam filesystem; made where missing.
        overwrite: Whether a finished folder may be replaced.

    Yields:
        The run. If the block fails, its files are removed but for those that it rejected.

    Raises:
        UsageError: If the folder is finished, or holds things that are not ours.
        UserError: If the folder cannot be written, or the disk becomes full in the block.
        KeyboardInterrupt: After an interrupt, whatever the block made of it.
    """
    output = output.rstrip("/")
    filesystem.check_reachable(output)
    run = Run(output, f"{RUN_PREFIX}{uuid.uuid4().hex}")
    try:
        others = {name for name in filesystem.names(output) if not RUN_FOLDER.fullmatch(name)}
        claim(others, output, overwrite=overwrite)
        filesystem.write_bytes(run.staged_path("begun", ""), b"1")
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot write {output}: {first_line(error)}") from error
    with remembered():
        try:
            with tells_full_disk(output):
                yield run
        except MaybeWrittenError:
            # The manifest may be there: nothing that it names may go.
            raise
        except BaseException:
            # An interrupt may come after the manifest was written: what it names stays.
            with suppress(Exception):
                if (published(output) or {}).get("run") != run.name:
                    _remove_failed(run)
            raise_if_interrupted()
            raise


def published(output: str) -> dict[str, Any] | None:
    """The manifest of an output folder; None where there is none."""
    path = join(output, MANIFEST)
    if not filesystem.exists(path):
        return None
    manifest: dict[str, Any] = json.loads(filesystem.read_bytes(path))
    return manifest


def leftovers(output: str) -> list[tuple[str, int]]:
    """Files of runs that the manifest does not name, sorted: path and size in bytes.

    They are of runs that failed, were killed, or are still at work.
    """
    manifest = published(output) or {}
    groups = manifest.get("files", {}).values()
    named = {join(output, file["path"]) for group in groups for file in group}
    found = filesystem.match(join(output, f"{RUN_PREFIX}*", "**"))
    return [(path, size) for path, size in found if path not in named]


def clean(output: str) -> list[tuple[str, int]]:
    """Removes `leftovers` and returns them; no job may be at work in the folder."""
    found = leftovers(output)
    filesystem.delete(path for path, _ in found)
    current = (published(output) or {}).get("run")
    for name in filesystem.names(output):
        if RUN_FOLDER.fullmatch(name) and name != current:
            filesystem.delete_below(join(output, name))
    return found


def _remove_failed(run: Run) -> None:
    paths = [path for path, _ in filesystem.match(join(run.folder, "**"))]
    rejected = [path for path in paths if path.startswith(join(run.folder, REJECTED))]
    if rejected:
        filesystem.delete(set(paths) - set(rejected))
    else:
        filesystem.delete_below(run.folder)


def _remove_replaced(output: str, replaced: Mapping[str, Any]) -> None:
    if "run" in replaced:
        filesystem.delete_below(join(output, replaced["run"]))
        return
    # Before runs had folders of their own, everything in the folder was the one run's.
    for name in filesystem.names(output) - {MANIFEST}:
        if not RUN_FOLDER.fullmatch(name):
            filesystem.delete_below(join(output, name))

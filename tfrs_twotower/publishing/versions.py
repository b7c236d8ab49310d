"""Versions of a models folder and the labels that decide which one is served.

    MODELS/models.config    the labels; see `server_config`
    MODELS/releases.json    every version that was stable, in order: where a rollback goes back to

TF Serving refuses a config that moves a label to a version that it has not loaded, whole and at
each look anew. So a label moves in three steps: a config that serves the version beside those that
are served, then, once the servers have loaded it, the label, then, once they have followed, a
config without what no longer has a label. A `Rollout` waits for the servers in between; without one
the last config is written at once, which suits the embedded server: it loads, then switches.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfrs_twotower.publishing import server_config
from tfrs_twotower.publishing.models_folder import (
    asked_model,
    folders_of,
    latest_version,
    models_of,
    read_model_manifest,
)
from tfrs_twotower.publishing.server_config import CANARY, STABLE
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.folders import write_json
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd

RELEASES_FILE = "releases.json"
LABELS = (STABLE, CANARY)


class Rollout(Protocol):
    """Waits for the servers of a models folder; raises UserError where one does not follow."""

    def until_loaded(self, versions: Mapping[str, Collection[int]]) -> None:
        """Waits until these versions of each model are served."""

    def until_moved(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Waits until the labels of each model stand for these versions."""


@dataclass(frozen=True)
class Version:
    """One version, as its manifests describe it."""

    number: int
    labels: tuple[str, ...]
    origin: str  # "export" or "refresh".
    corpus_size: int
    recall: float | None  # Measured on held-out queries.
    memory_bytes: int  # Of all its models.
    towers_digest: str


class Versions(Tabular, tuple[Version, ...]):
    """The versions of a models folder, oldest first."""

    @property
    def title(self) -> str:
        """How many there are."""
        return f"{len(self)} version{'s' if len(self) != 1 else ''}"

    def to_frame(self) -> "pd.DataFrame":
        """A row a version, by number."""
        import pandas as pd

        return pd.DataFrame([vars(version) for version in self]).set_index("number")

    def headline(self) -> "pd.DataFrame":
        """Without the digest."""
        return self.to_frame().drop(columns="towers_digest")


def list_versions(models: str | Path) -> Versions:
    """Every version that is there as a whole, oldest first.

    Args:
        models: The models folder.

    Raises:
        UserError: If there is none.
    """
    models = Path(models)
    newest = latest_version(models)
    labels = server_config.read_labels(models)
    return Versions(
        _describe(models, number, tuple(sorted(k for k, v in labels.items() if v == number)))
        for number in range(1, newest + 1)
        if is_whole(models, number)
    )


def is_whole(models: Path, version: int) -> bool:
    """Whether a version has all its folders."""
    return all((models / name / str(version)).is_dir() for name in folders_of(models, version))


def choose(models: str | Path, version: int | None = None) -> int:
    """The version to ask or to build on: the given one, else the stable one, else the newest.

    Raises:
        UserError: If it is not there as a whole.
    """
    models = Path(models)
    if version is None:
        version = server_config.read_labels(models).get(STABLE)
    if version is None:
        return latest_version(models)
    _check_whole(models, version)
    return version


def check(models: Path, version: int, label: str) -> None:
    """Checks that a version may have a label.

    Raises:
        UsageError: If there is no such label.
        UserError: If there is no such version.
    """
    if label not in LABELS:
        raise UsageError(f"label {label!r}: expected {' or '.join(LABELS)}")
    _check_whole(models, version)


def set_label(
    models: str | Path, version: int, label: str = STABLE, rollout: Rollout | None = None
) -> None:
    """Gives a label to a version and writes the server's configs.

    A version that becomes stable is no canary any longer.

    Args:
        models: The models folder.
        version: The version.
        label: "stable" or "canary".
        rollout: Waits for the servers between the steps; None: the label moves at once.

    Raises:
        UsageError: If there is no such label.
        UserError: If there is no such version, or a server does not load it: the label has not
            moved then.
    """
    models = Path(models)
    check(models, version, label)
    labels = {**server_config.read_labels(models), label: version}
    if label == STABLE and labels.get(CANARY) == version:
        del labels[CANARY]
    kept = _load(models, labels, rollout)
    if label == STABLE:
        history = _history(models)
        if history[-1:] != [version]:
            write_json(models / RELEASES_FILE, {STABLE: [*history, version]})
    _move(models, labels, kept, rollout)


def rollback(models: str | Path, rollout: Rollout | None = None) -> int:
    """Makes the version stable that was so before; a canary loses its label.

    Args:
        models: The models folder.
        rollout: See `set_label`.

    Returns:
        The version that is stable now.

    Raises:
        UserError: If no version was stable before, or it is gone, or a server does not load it.
    """
    models = Path(models)
    history = _history(models)
    if len(history) < 2:
        raise UserError(
            f"no version of {models} was stable before: `twotower promote` makes one so"
        )
    version = history[-2]
    if not is_whole(models, version):
        raise UserError(
            f"version {version}, stable before, is gone from {models}: `twotower promote` another"
        )
    labels = {STABLE: version}
    kept = _load(models, labels, rollout)
    # The configs first: killed in between, the next rollback comes to the same version.
    _move(models, labels, kept, rollout)
    write_json(models / RELEASES_FILE, {STABLE: history[:-1]})
    return version


def _load(models: Path, labels: Mapping[str, int], rollout: Rollout | None) -> set[int]:
    """Has the servers load what will have a label, beside what they serve; all of that."""
    before = server_config.read_labels(models)
    served = {*before.values()} or {latest_version(models)}
    kept = served | {*labels.values()}
    if rollout is not None:
        server_config.write(models, before, kept=kept)
        rollout.until_loaded(server_config.served_versions(models))
    return kept


def _move(
    models: Path, labels: Mapping[str, int], kept: Collection[int], rollout: Rollout | None
) -> None:
    """Moves the labels, then has the servers unload what has none."""
    if rollout is not None:
        server_config.write(models, labels, kept=kept)
        rollout.until_moved(server_config.labels_by_model(models))
    server_config.write(models, labels)


def _check_whole(models: Path, version: int) -> None:
    if not is_whole(models, version):
        found = ", ".join(str(known.number) for known in list_versions(models))
        raise UserError(f"{models} has no version {version}: it has {found or 'none'}")


def _history(models: Path) -> list[int]:
    path = models / RELEASES_FILE
    if not path.exists():
        return []
    try:
        return [int(number) for number in json.loads(path.read_text(encoding="utf-8"))[STABLE]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: remove it, rollbacks begin anew") from error


def _describe(models: Path, number: int, labels: tuple[str, ...]) -> Version:
    names = models_of(models, number)
    manifests = {name: read_model_manifest(models, name, number) for name in names}
    retrieval: dict[str, Any] = manifests[asked_model(models, number)]
    return Version(
        number=number,
        labels=labels,
        origin=retrieval.get("origin", "export"),
        corpus_size=retrieval["corpus_size"],
        recall=(retrieval.get("recall") or {}).get("mean"),
        memory_bytes=sum(manifest["memory_bytes"] for manifest in manifests.values()),
        towers_digest=retrieval["towers_digest"],
    )

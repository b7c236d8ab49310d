"""Which versions of which models are served: found, loaded, swapped and unloaded."""

import enum
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.errors import (
    InvalidRequestError,
    LoadError,
    ModelNotFoundError,
    UnavailableError,
)
from serving.loading import SAVED_MODEL_FILE, Servable
from serving.model_config import ModelConfig, RequestLogging

_LOG = logging.getLogger(__name__)


LOADING = "the server is still loading"


class State(enum.IntEnum):
    """Where a version stands; the numbers are `ModelVersionStatus.State`'s."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """State of a version, and why it could not be loaded ("" where nothing went wrong)."""

    state: State
    error: str = ""


@dataclass
class _Loaded:
    servable: Servable
    base_path: Path
    in_flight: int = 0


class Servables:
    """The versions that answer, by model.

    Requests borrow a version with `use`; `sync` brings the set in line with the folders and the
    config. A version is replaced only after its successor has been loaded and warmed up, and
    closed only after its last request has been answered. Thread-safe.
    """

    def __init__(
        self,
        models: Sequence[ModelConfig],
        load: Callable[[Path, str, int], Servable],
        stopping: threading.Event | None = None,
    ) -> None:
        """Makes an empty set.

        Args:
            models: What to serve.
            load: Loads and warms up a version folder, given the model's name and the version;
                raises LoadError.
            stopping: Once it is set, no further version is loaded.
        """
        self._models = {model.name: model for model in models}
        self._load = load
        self._stopping = stopping or threading.Event()
        self._syncing = threading.Lock()
        self._changed = threading.Condition()  # Guards what follows.
        self._loaded: dict[str, dict[int, _Loaded]] = {name: {} for name in self._models}
        self._statuses: dict[str, dict[int, VersionStatus]] = {name: {} for name in self._models}
        self._labels = {name: dict(model.labels) for name, model in self._models.items()}
        self._failed: dict[tuple[str, int], _Fingerprint] = {}
        self._is_starting = True

    def start(self) -> None:
        """Loads every model for the first time.

        Raises:
            LoadError: If a model has no version that can be served.
        """
        for model in self._models.values():
            _select(model)
        self.sync()
        self._is_starting = False
        for name, model in self._models.items():
            if not self._loaded[name] and not self._stopping.is_set():
                found, _ = _select(model)
                newest = self._statuses[name].get(max(found))
                raise LoadError(newest.error if newest else f"cannot load {name}")

    def sync(self, models: Sequence[ModelConfig] | None = None) -> None:
        """Loads versions that should be served and are not, then unloads the others.

        A version that cannot be loaded is tried again when its folder changes; meanwhile what was
        served goes on being served. Nothing is raised: `statuses` tells.

        Args:
            models: Replaces what is to be served; None leaves it.
        """
        with self._syncing:
            if models is not None:
                self._replace(models)
            for model in list(self._models.values()):
                try:
                    self._sync_model(model)
                except LoadError as error:
                    _LOG.error("%s", error)

    @contextmanager
    def use(
        self, name: str, version: int | None = None, label: str | None = None
    ) -> Iterator[Servable]:
        """Lends a version for one request.

        Args:
            name: The model.
            version: Which version; None: the label's, or the newest.
            label: A label of the config; None: as `version` says.

        Raises:
            InvalidRequestError: If the name is empty or the label unknown.
            ModelNotFoundError: If that version is not being served.
            UnavailableError: If it may come: the set is being loaded for the first time.
        """
        with self._changed:
            loaded = self._find(name, version, label)
            loaded.in_flight += 1
        try:
            yield loaded.servable
        finally:
            with self._changed:
                loaded.in_flight -= 1
                if not loaded.in_flight:
                    self._changed.notify_all()

    def statuses(self, name: str, version: int | None = None) -> dict[int, VersionStatus]:
        """The versions known of a model, or the one asked for, and where they stand.

        Raises:
            InvalidRequestError: If the name is empty.
            ModelNotFoundError: If there is none.
        """
        _check_name(name)
        with self._changed:
            statuses = dict(self._statuses.get(name, {}))
        if version is not None:
            if version not in statuses:
                raise ModelNotFoundError(f"Could not find version {version} of model {name}")
            return {version: statuses[version]}
        if not statuses:
            raise ModelNotFoundError(f"Could not find any versions of model {name}")
        return statuses

    @property
    def names(self) -> Collection[str]:
        """The models of the config."""
        return self._models.keys()

    def logging_of(self, name: str) -> RequestLogging | None:
        """Which answers of a model are kept; None: none."""
        model = self._models.get(name)
        return model.logging if model else None

    def available(self) -> list[tuple[str, int]]:
        """Model and version of everything that is being served."""
        with self._changed:
            return [(name, version) for name, loaded in self._loaded.items() for version in loaded]

    def version_of(self, name: str, label: str) -> int:
        """The version that a label of the config stands for.

        A label that moves does so once its new version is served.

        Raises:
            InvalidRequestError: If the model has no such label.
        """
        labels = self._labels.get(name, {})
        if label not in labels:
            raise InvalidRequestError(f"Unrecognized servable version label: {label}")
        return labels[label]

    def close(self) -> None:
        """Waits for the requests under way and unloads everything."""
        with self._syncing:
            for name in list(self._loaded):
                for version in list(self._loaded[name]):
                    self._unload(name, version)

    def _find(self, name: str, version: int | None, label: str | None) -> _Loaded:
        _check_name(name)
        if label is not None:
            version = self.version_of(name, label)
        loaded = self._loaded.get(name, {})
        if version is None and loaded:
            return loaded[max(loaded)]
        if version in loaded:
            return loaded[version]
        if self._is_starting and name in self._models:
            raise UnavailableError(f"{LOADING} {name}: ask again", model=name)
        asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise ModelNotFoundError(f"Servable not found for request: {asked}", model=name)

    def _replace(self, models: Sequence[ModelConfig]) -> None:
        gone = self._models.keys() - {model.name for model in models}
        with self._changed:
            self._models = {model.name: model for model in models}
            for name in self._models:
                self._loaded.setdefault(name, {})
                self._statuses.setdefault(name, {})
                self._labels.setdefault(name, {})
        for name in gone:
            for version in list(self._loaded[name]):
                self._unload(name, version)

    def _sync_model(self, model: ModelConfig) -> None:
        found, selected = _select(model)
        loaded = self._loaded[model.name]
        for version in selected:
            self._try(model, version, found[version])
        labels = {
            label: version
            if self._has(model, version)
            else self._labels[model.name].get(label, version)
            for label, version in model.labels.items()
        }
        with self._changed:
            self._labels[model.name] = labels
        if any(self._has(model, version) for version in selected):
            for version in loaded.keys() - set(selected) - set(labels.values()):
                self._unload(model.name, version)
        elif model.policy.latest is not None:
            # Restarted beside a damaged newest version: better the one before than none.
            for version in sorted(found.keys() - set(selected), reverse=True):
                if not loaded:
                    self._try(model, version, found[version])

    def _has(self, model: ModelConfig, version: int) -> bool:
        """Whether a version is being served from where the config has it now."""
        loaded = self._loaded[model.name].get(version)
        return loaded is not None and loaded.base_path == model.base_path

    def _try(self, model: ModelConfig, version: int, path: Path) -> None:
        key = model.name, version
        if self._has(model, version) or self._stopping.is_set():
            return
        before = _fingerprint(path)
        if self._failed.get(key) == before:
            return
        if version not in self._loaded[model.name]:  # The same number of another folder, perhaps.
            self._note(model.name, version, VersionStatus(State.LOADING))
        _LOG.info("loading %s version %d from %s", model.name, version, path)
        try:
            servable = self._load(path, model.name, version)
        except LoadError as error:
            self._failed[key] = before
            if version not in self._loaded[model.name]:
                self._note(model.name, version, VersionStatus(State.END, str(error)))
            _LOG.error("%s", error)
            return
        self._failed.pop(key, None)
        with self._changed:
            replaced = self._loaded[model.name].get(version)
            self._loaded[model.name][version] = _Loaded(servable, model.base_path)
            self._statuses[model.name][version] = VersionStatus(State.AVAILABLE)
        _LOG.info("serving %s version %d", model.name, version)
        if replaced is not None:
            self._close(replaced)

    def _unload(self, name: str, version: int) -> None:
        with self._changed:
            loaded = self._loaded[name].pop(version)
            self._statuses[name][version] = VersionStatus(State.UNLOADING)
        self._close(loaded)
        self._note(name, version, VersionStatus(State.END))
        _LOG.info("unloaded %s version %d", name, version)

    def _close(self, loaded: _Loaded) -> None:
        """Frees a version that no new request gets, after its last one."""
        with self._changed:
            self._changed.wait_for(lambda: not loaded.in_flight)
        loaded.servable.close()

    def _note(self, name: str, version: int, status: VersionStatus) -> None:
        with self._changed:
            self._statuses[name][version] = status


def versions_under(base_path: str | Path) -> dict[int, Path]:
    """The version folders of a model, by number; everything else in the folder is passed over.

    Raises:
        LoadError: If the base path is no folder, or is itself a version.
    """
    folder = Path(base_path)
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise LoadError(f"cannot read the model folder {folder}: {error.strerror}") from error
    if any(entry.name == SAVED_MODEL_FILE for entry in entries):
        raise LoadError(
            f"{folder} is itself a SavedModel: the base path is the folder of its versions, "
            f"such as {folder}/1"
        )
    return {
        int(entry.name): entry
        for entry in entries
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
    }


_Fingerprint = frozenset[tuple[str, int, int]]


def _fingerprint(path: Path) -> _Fingerprint:
    """Names, sizes and times of a folder's files: changes while it is being copied."""
    files = set()
    for file in path.rglob("*"):
        try:
            stat = file.stat()
        except OSError:  # Gone since it was listed.
            continue
        files.add((str(file), stat.st_size, stat.st_mtime_ns))
    return frozenset(files)


def _check_name(name: str) -> None:
    if not name:
        raise InvalidRequestError("ModelSpec has no name specified.")


def _select(model: ModelConfig) -> tuple[dict[int, Path], list[int]]:
    """The versions found, and the numbers of those to serve."""
    found = versions_under(model.base_path)
    if not found:
        raise LoadError(
            f"{model.base_path} has no version of {model.name}: expected folders named 1, 2, ... "
            "with a SavedModel in each"
        )
    selected = model.policy.select(list(found))
    if not selected:
        raise LoadError(
            f"{model.base_path} has versions {', '.join(map(str, sorted(found)))} of {model.name}, "
            f"the config asks for {', '.join(map(str, sorted(model.policy.specific)))}"
        )
    return found, selected

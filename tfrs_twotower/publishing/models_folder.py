"""The models folder: which models and versions are there, and the tables beside them.

    retrieval/<v>/         query features -> top-k, ScaNN inside
    retrieval_stock/<v>/   the same contract by inverted lists, stock TensorFlow ops only
    retrieval_exact/<v>/   the same contract by matrix product
    query_tower/<v>/       query features -> query embedding
    candidate_tower/<v>/   candidate features -> candidate embedding
    similarity/<v>/        ids -> scores, by stored vectors; where the config wants it
    candidates/<v>/        Parquet: candidate_id, embedding, title and attributes
    queries/<v>/           Parquet: features and known positives of each query as of now
    models.config          for a server with ScaNN's operations
    models.stock.config    for stock images: `retrieval_stock` where there is one

A version has one number in all of them. `retrieval` appears last: where it has a version, the
others have it too. A version whose config wants none of it is answered by `retrieval_stock`, which
corpora that are searched by brute force do without, else by `retrieval_exact`.
"""

import fcntl
import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tfrs_twotower.schema import Config, UserError, load_config
from tfrs_twotower.schema.folders import MANIFEST, tells_full_disk
from tfrs_twotower.schema.interrupts import raise_if_interrupted
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    CANDIDATES,
    EXCLUDE_IDS,
    EXTRA_ASSETS,
    QUERIES,
    QUERY_KEY,
    QUERY_TOWER,
    RETRIEVAL,
    RETRIEVAL_EXACT,
    RETRIEVAL_MODELS,
    RETRIEVAL_STOCK,
    SIMILARITY,
    TWOTOWER_CONFIG,
    newest_whole_version,
    preferred_model,
)
from tfrs_twotower.schema.requests import fill_in

# Of the preferred model with an index: what its recall is measured on.
HELD_OUT_QUERIES = "held_out_queries.parquet"
QUERY_EMBEDDING = "query_embedding"

MODELS = (QUERY_TOWER, CANDIDATE_TOWER, SIMILARITY, RETRIEVAL_EXACT, RETRIEVAL_STOCK, RETRIEVAL)
PUBLISHED_IN_ORDER = (CANDIDATES, QUERIES, *MODELS)
TITLE = "title"

CONFIG_FILE, STOCK_CONFIG_FILE = "models.config", "models.stock.config"
STAGING = ".incomplete"
PART = "part-00000.parquet"


@contextmanager
def staging_folder(models: Path) -> Iterator[Path]:
    """An empty folder in the models folder that no server looks into.

    Args:
        models: The models folder; made where missing.

    Yields:
        The folder, for the folders of a version by name; `publish` takes them out of it. It is
        removed at the end, with what an error has left in it.

    Raises:
        UserError: If the folder cannot be written, another command is writing it, or the disk
            becomes full in the block.
    """
    staging = models / STAGING
    with ExitStack() as ending:
        try:
            models.mkdir(parents=True, exist_ok=True)
            ending.enter_context(_locked(models))
            # A killed command leaves its staging folder, nothing else that could pass for whole.
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
        except OSError as error:
            raise UserError(f"cannot write {models}: {error.strerror}") from error
        ending.callback(shutil.rmtree, staging, ignore_errors=True)
        with tells_full_disk(models):
            yield staging


@contextmanager
def _locked(models: Path) -> Iterator[None]:
    """Keeps other commands out; the lock ends with the process, however that ends."""
    folder = os.open(models, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another export or refresh is writing {models}: try again once it has ended"
            ) from error
        yield
    finally:
        os.close(folder)


def publish(models: Path, staging: Path) -> int:
    """Gives the folders of a finished version their places, `retrieval` last.

    Args:
        models: The models folder.
        staging: See `staging_folder`.

    Returns:
        The number of the version.
    """
    raise_if_interrupted()
    version = next_version(models)
    for name in PUBLISHED_IN_ORDER:
        if (staging / name).exists():  # A config may want no `retrieval`, a corpus no tree.
            (models / name).mkdir(exist_ok=True)
            (staging / name).rename(models / name / str(version))
    return version


def extra_asset(models: Path, name: str, version: int, file_name: str) -> Path:
    """A file beside the graph of a model's version."""
    return models / name / str(version) / EXTRA_ASSETS / file_name


def read_config(models: Path, version: int) -> Config:
    """The config that a version was exported with.

    Raises:
        UserError: If the version does not have it.
    """
    path = extra_asset(models, CANDIDATE_TOWER, version, TWOTOWER_CONFIG)
    if not path.exists():
        raise UserError(f"{path} is missing: make a version that has it with `twotower export`")
    return load_config(path)


def folders_of(models: Path, version: int) -> tuple[str, ...]:
    """The folders that a version must have, and those that it may have where it has them."""
    absent = set() if _wants_retrieval(models, version) else {RETRIEVAL}
    for name in (RETRIEVAL_STOCK, SIMILARITY):
        if version not in versions(models / name):
            absent.add(name)
    return tuple(name for name in PUBLISHED_IN_ORDER if name not in absent)


def models_of(models: Path, version: int) -> tuple[str, ...]:
    """The models among `folders_of`."""
    return tuple(name for name in folders_of(models, version) if name in MODELS)


def read_model_manifest(models: Path, name: str, version: int) -> dict[str, Any]:
    """The manifest of a model's version.

    Raises:
        UserError: If there is none.
    """
    path = extra_asset(models, name, version, MANIFEST)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is missing or damaged: `twotower versions` lists what {models} has, "
            "`twotower export` makes a new version"
        ) from error


def versions(base_path: Path) -> list[int]:
    """The version numbers under one base path, ascending."""
    if not base_path.is_dir():
        return []
    return sorted(int(entry.name) for entry in base_path.iterdir() if entry.name.isdecimal())


def next_version(models: Path) -> int:
    """One above every version of every model, also of a publication that was killed half-way."""
    found = [version for name in PUBLISHED_IN_ORDER for version in versions(models / name)]
    return 1 + max(found, default=0)


def latest_version(models: Path) -> int:
    """The newest version that is there as a whole.

    Raises:
        UserError: If there is none.
    """
    found = {name: versions(models / name) for name in RETRIEVAL_MODELS}
    version = newest_whole_version(found, functools.partial(_wants_retrieval, models))
    if version is None:
        raise UserError(f"no models in {models}: make them with `twotower export`")
    return version


def asked_model(models: Path, version: int) -> str:
    """The model of a version that answers requests."""
    return preferred_model(
        [name for name in RETRIEVAL_MODELS if version in versions(models / name)]
    )


def read_candidates(models: Path, version: int, columns: list[str] | None = None) -> pd.DataFrame:
    """The candidates of a version, in the order of rows."""
    return ds.dataset(models / CANDIDATES / str(version)).to_table(columns=columns).to_pandas()


def read_queries(models: Path, version: int) -> pa.Table:
    """What a version knows of every query, by the names of the inputs that it fills in."""
    return _stored_queries(models, version).to_table()


def query_key(models: Path, version: int) -> str:
    """The name under which a query gives its id: its id feature, else its id column."""
    return _stored_queries(models, version).schema.metadata[QUERY_KEY].decode()


def is_known_query(models: Path, version: int, query: Mapping[str, Any]) -> bool:
    """Whether `queries` of a version has the query's id; also true of a query that gives none."""
    key = query_key(models, version)
    return key not in query or bool(_known_of(models, version, key, query[key]))


def complete_query(
    models: Path, version: int, query: Mapping[str, Any], *, exclude_known: bool | None = None
) -> dict[str, Any]:
    """Adds what the models folder holds of a query: profile, history and known positives.

    Args:
        models: The models folder.
        version: The version whose `queries` are read.
        query: Values by feature name, and the query's id under its feature's name (for a model
            without an id feature: under the name of the id column).
        exclude_known: Whether to exclude what the query already had; None: as
            `rules.exclude_known` of the config says.

    Returns:
        The given values, and for the other features of the query those known, else None; the
        context stays as it was given. What the query already had is in `exclude_ids`, sorted: its
        known positives and its history, beside those given.
    """
    config = read_config(models, version)
    key = query_key(models, version)
    known = _known_of(models, version, key, query[key]) if key in query else {}
    return fill_in(
        query,
        known,
        key=key,
        features=config.features.query,
        history=config.history and config.history.name,
        exclude_known=config.rules.exclude_known if exclude_known is None else exclude_known,
    )


def keeps_known_positives(models: Path, version: int) -> bool:
    """Whether `queries` of a version has known positives, see `EXCLUDE_IDS`."""
    return EXCLUDE_IDS in _stored_queries(models, version).schema.names


def _known_of(models: Path, version: int, key: str, value: Any) -> dict[str, Any]:
    stored = _stored_queries(models, version)
    rows = stored.to_table(filter=pc.field(key) == str(value)).to_pylist()
    return {name: value for row in rows for name, value in row.items() if value is not None}


def _wants_retrieval(models: Path, version: int) -> bool:
    path = extra_asset(models, CANDIDATE_TOWER, version, TWOTOWER_CONFIG)
    return not path.exists() or load_config(path).export.retrieval


def _stored_queries(models: Path, version: int) -> ds.Dataset:
    return ds.dataset(models / QUERIES / str(version))

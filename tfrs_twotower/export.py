"""A run -> the next version of every model in the models folder."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tfrs_twotower.evaluate import embed
from tfrs_twotower.index import CandidateIndex, ExactIndex, ScannIndex
from tfrs_twotower.keras import keras
from tfrs_twotower.models_folder import (
    CANDIDATE_TOWER,
    CANDIDATES,
    CONFIG_FILE,
    MODELS,
    PUBLISHED_IN_ORDER,
    QUERIES,
    QUERY_KEY,
    QUERY_TOWER,
    RETRIEVAL,
    RETRIEVAL_EXACT,
    STOCK_CONFIG_FILE,
    next_version,
)
from tfrs_twotower.retrieval import Retriever, ServedTower
from tfrs_twotower.runs import Run, load_run
from tfrs_twotower.saved_models import save
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import Id

STAGING = ".incomplete"
PART = "part-00000.parquet"


@dataclass(frozen=True)
class Export:
    """What an export published: the models folder, the version, each model's manifest."""

    folder: Path
    version: int
    manifests: dict[str, dict[str, Any]]


def export(
    run: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    config_base_path: str | None = None,
) -> Export:
    """Publishes the next version of every model.

    All of it is made in a folder that no server looks into, then renamed into place, `retrieval`
    last.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        output: The models folder; made where missing.
        config_base_path: Where the server will see the models folder; absolute. Default: where it
            is now.

    Raises:
        UserError: If the run does not serve, or the folder cannot be written.
    """
    loaded = load_run(run, data)
    models = Path(output)
    try:
        models.mkdir(parents=True, exist_ok=True)
        # A killed export leaves its staging folder, and nothing else that could be taken for whole.
        shutil.rmtree(models / STAGING, ignore_errors=True)
        staging = models / STAGING
        staging.mkdir()
    except OSError as error:
        raise UserError(f"cannot write {models}: {error.strerror}") from error
    manifests = _write_version(loaded, staging)
    version = next_version(models)
    for name in PUBLISHED_IN_ORDER:
        (models / name).mkdir(exist_ok=True)
        (staging / name).rename(models / name / str(version))
    staging.rmdir()
    base_path = config_base_path or str(models.resolve())
    for file_name, names in ((CONFIG_FILE, MODELS), (STOCK_CONFIG_FILE, _without_scann())):
        beside = models / f"{file_name}.tmp"
        beside.write_text(server_config(base_path, names), encoding="utf-8")
        beside.replace(models / file_name)
    return Export(models, version, manifests)


def server_config(base_path: str, names: tuple[str, ...]) -> str:
    """TF Serving's `models.config` (a `ModelServerConfig` in text format).

    Args:
        base_path: The models folder as the server sees it.
        names: The models to serve.
    """
    root = base_path.rstrip("/")
    entries = "".join(
        f"  config {{\n    name: {_quoted(name)}\n"
        f"    base_path: {_quoted(f'{root}/{name}')}\n"
        '    model_platform: "tensorflow"\n  }\n'
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _without_scann() -> tuple[str, ...]:
    return tuple(name for name in MODELS if name != RETRIEVAL)


def _write_version(loaded: Run, staging: Path) -> dict[str, dict[str, Any]]:
    """Writes every folder of a version; returns the manifests of the models."""
    config, data, model = loaded.config, loaded.data, loaded.model
    corpus = data.corpus()
    embeddings = embed(model.candidate_tower, corpus.features)
    query_tower = ServedTower(data.query_encoder(), model.query_tower)
    candidate_tower = ServedTower(data.candidate_encoder(), model.candidate_tower)
    facts = {
        "schema_fingerprint": config.fingerprint(),
        "towers_digest": _digest([model.query_tower, model.candidate_tower]),
    }
    manifests = {}
    for name, tower, output in (
        (QUERY_TOWER, query_tower, "query_embedding"),
        (CANDIDATE_TOWER, candidate_tower, "candidate_embedding"),
    ):
        manifests[name] = save(
            tower, tower.signatures(output), staging / name, model_name=name, facts=facts
        )
    for name, index in _indices(embeddings, config):
        retriever = Retriever(
            query_tower,
            index,
            corpus.candidate_ids.tolist(),
            default_k=config.export.default_k,
            max_k=config.export.max_k,
        )
        manifests[name] = save(
            retriever,
            retriever.signatures(),
            staging / name,
            model_name=name,
            facts={**facts, "corpus_size": len(corpus), "index": index.parameters},
            searcher_bytes=index.searcher_bytes,
        )
    _write_candidates(loaded, embeddings, staging / CANDIDATES)
    _write_queries(loaded, staging / QUERIES)
    return manifests


def _indices(
    embeddings: npt.NDArray[np.float32], config: Config
) -> Iterator[tuple[str, CandidateIndex]]:
    """One index after the other, so that only one is in memory beside the embeddings."""
    yield RETRIEVAL_EXACT, ExactIndex(embeddings)
    yield RETRIEVAL, ScannIndex(embeddings, config.index)


def _digest(towers: list[keras.Model]) -> str:
    """SHA-256 over the weights of the towers."""
    digest = hashlib.sha256()
    for tower in towers:
        for variable in tower.variables:
            digest.update(f"{variable.dtype.name}{variable.shape}".encode())
            digest.update(np.ascontiguousarray(variable.numpy()).data)
    return digest.hexdigest()


def _write_candidates(loaded: Run, embeddings: npt.NDArray[np.float32], folder: Path) -> None:
    """Writes id, embedding, title and attributes of every candidate, in the order of rows."""
    files = sorted(loaded.data.folder.glob(f"{layout.CANDIDATE_ATTRIBUTES}-*.parquet"))
    table = ds.dataset(files).to_table().sort_by(layout.CANDIDATE_ROW)
    dim = embeddings.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), dim)
    table = table.drop_columns([layout.CANDIDATE_ROW])
    folder.mkdir()
    pq.write_table(table.add_column(1, "embedding", vectors), folder / PART)


def _write_queries(loaded: Run, folder: Path) -> None:
    """Writes what is known of every query as of now, by feature name."""
    config = loaded.config
    files = sorted(loaded.data.folder.glob(f"{layout.QUERIES}-*.parquet"))
    table = ds.dataset(files).to_table()
    features = config.features.query.items()
    key = next((name for name, feature in features if isinstance(feature, Id)), None)
    key = key or config.columns.query_id
    columns = {key: table.column(layout.QUERY_ID)}
    for name, feature in features:
        if feature is config.history:
            columns[name] = table.column(layout.HISTORY_NOW)
        elif name != key:
            columns[name] = table.column(name)
    folder.mkdir()
    stored = pa.table(columns).replace_schema_metadata({QUERY_KEY: key})
    pq.write_table(stored.sort_by(key), folder / PART)

"""A run -> the next version of every model in the models folder."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tfrs_twotower.features.history_candidates import HistoryCandidates
from tfrs_twotower.keras import keras
from tfrs_twotower.models.context_modes import ScoredQueryTower, TrilinearQueryTower
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import METRICS_FILE, Run, load_run
from tfrs_twotower.publishing import server_config
from tfrs_twotower.publishing.halves import JoinedTower
from tfrs_twotower.publishing.indexes import Corpus, QuerySide, write_indexes
from tfrs_twotower.publishing.models_folder import PART, QUERY_EMBEDDING, publish, staging_folder
from tfrs_twotower.publishing.progress import Begin, told_steps
from tfrs_twotower.publishing.saved_model_writer import save
from tfrs_twotower.retrieval.retriever import ServedTower
from tfrs_twotower.schema import SPLITS, Config, Parameter, UsageError, differences, dump_config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import WITH_VOCABULARY, History
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    EXCLUDE_IDS,
    EXTRA_ASSETS,
    QUERIES,
    QUERY_KEY,
    QUERY_TOWER,
    TWOTOWER_CONFIG,
    preferred_model,
)
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd

# Half of them are enough for a confidence bound within one percent of the mean.
MAX_HELD_OUT = 1000
# Of one query; more are a program's, not a person's, and would weigh on every request.
MAX_KNOWN = 10_000
# A reader of one query reads one group.
QUERIES_A_GROUP = 1 << 14


@dataclass(frozen=True, repr=False)
class Export(Tabular):
    """A published version.

    Attributes:
        folder: The models folder.
        version: Its number.
        manifests: By model: `memory_bytes`, `custom_ops`, `index`, `recall` of the index, ...
    """

    folder: Path
    version: int
    manifests: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """The version, its size, and the recall of its index where that was measured."""
        manifest = self.manifests[preferred_model(self.manifests)]
        title = f"version {self.version} in {self.folder}: {manifest['corpus_size']:,} candidates"
        if recall := manifest.get("recall"):
            title += f", the index finds {recall['mean']:.4f} of the exact {recall['at']} best"
        return title

    def to_frame(self) -> "pd.DataFrame":
        """A row a model: its memory in MB, and the ops that a stock TF Serving lacks."""
        import pandas as pd

        rows = {
            name: {
                "memory_mb": manifest["memory_bytes"] / 1e6,
                "custom_ops": ", ".join(manifest["custom_ops"]),
            }
            for name, manifest in self.manifests.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def export(
    run: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    config: Config | None = None,
    target_recall: float | None = None,
    at: int | None = None,
    config_base_path: str | None = None,
    progress: bool = True,
) -> Export:
    """Publishes the next version of every model.

    All of it is made in a folder that no server looks into, then renamed into place, `retrieval`
    last. Labels of versions stay where they are.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        output: The models folder; made where missing.
        config: Whose `index`, `rules` and `export` replace those of the run; otherwise it must be
            the config of the run.
        target_recall: Share of the exact answer that `retrieval` must find; default:
            by `index.target_recall` of the config.
        at: For the best how many that holds; default: `index.at`.
        config_base_path: Where the server will see the models folder; absolute. Default: where it
            is now.
        progress: Whether to show on stderr what is being done.

    Raises:
        UsageError: If a target is out of range, there is no index to meet it, or the config
            differs from that of the run in more than it may.
        UserError: If the run is unusable, the folder cannot be written, memory is too small, or
            the target cannot be met.
    """
    with told_steps(progress) as begin:
        begin("reading the run")
        loaded = load_run(run, data)
        models = Path(output)
        published = loaded.config if config is None else _checked(config, loaded)
        published = _with_target(published, target_recall, at)
        with staging_folder(models) as staging:
            manifests = _write_version(loaded, published, staging, begin)
            version = publish(models, staging)
    labels = server_config.read_labels(models)
    server_config.write(models, labels, config_base_path or str(models.resolve()))
    return Export(models, version, manifests)


def _checked(config: Config, run: Run) -> Config:
    """A config to publish with, which may differ from the run's in what an export decides.

    Raises:
        UsageError: If it differs in more.
    """
    config = config.with_batch_size(run.data.batch_size)
    if found := differences(run.config.training_schema(), config.training_schema()):
        shown = ", ".join(path for path, _, _ in found[:3])
        raise UsageError(
            f"{run.folder} was trained with another config (different: {shown}): train again, or "
            "export with the config of the run"
        )
    return config


def _with_target(config: Config, target_recall: float | None, at: int | None) -> Config:
    if target_recall is not None and not 0.0 < target_recall < 1.0:
        raise UsageError(f"target recall {target_recall}: expected a share between 0 and 1")
    if at is not None and at < 1:
        raise UsageError(Parameter("at"), f" is {at}: expected 1 or more")
    given = {
        name: value
        for name, value in (("target_recall", target_recall), ("at", at))
        if value is not None
    }
    if given and not config.export.retrieval:
        raise UsageError(
            Parameter("target_recall"),
            " and ",
            Parameter("at"),
            " are about the index of `retrieval`, which the run's `export.retrieval: false` leaves "
            "out: export without them",
        )
    return config.model_copy(update={"index": config.index.model_copy(update=given)})


def _write_version(
    loaded: Run, config: Config, staging: Path, begin: Begin
) -> dict[str, dict[str, Any]]:
    """Writes every folder of a version; returns the manifests of the models."""
    data, model = loaded.data, loaded.model
    encoder = data.query_encoder()
    query_tower = ServedTower(encoder, model.query_tower)
    candidate_tower = ServedTower(data.candidate_encoder(), model.candidate_tower)
    facts = {
        "schema_fingerprint": config.fingerprint(),
        "towers_digest": _digest([model.query_tower, model.candidate_tower]),
        "origin": "export",
        "features": _features(config),
    }
    for layer in model.query_tower.submodules:
        if isinstance(layer, HistoryCandidates):
            query_tower.history_candidates = layer.encoded  # By name, for a refresh to change.
    joined_tower = None
    if isinstance(model.query_tower, TrilinearQueryTower | ScoredQueryTower):
        joined_tower = JoinedTower(encoder, model.query_tower, config)
        query_tower.joined_tower = joined_tower  # Saved with it.
    halves = joined_tower.signatures() if joined_tower else {}
    manifests = {}
    for name, tower, signatures in (
        (QUERY_TOWER, query_tower, {**query_tower.signatures(QUERY_EMBEDDING), **halves}),
        (CANDIDATE_TOWER, candidate_tower, candidate_tower.signatures("candidate_embedding")),
    ):
        begin(name)
        manifests[name] = save(tower, signatures, staging / name, model_name=name, facts=facts)
    config_path = staging / CANDIDATE_TOWER / EXTRA_ASSETS / TWOTOWER_CONFIG
    config_path.write_text(dump_config(config), encoding="utf-8")
    begin("queries")
    _write_queries(loaded, staging / QUERIES)
    metrics = json.loads((loaded.folder / METRICS_FILE).read_text(encoding="utf-8"))
    manifests |= write_indexes(
        staging,
        QuerySide(query_tower, joined_tower, model.scorer),
        Corpus(data.candidate_table(), embed(model.candidate_tower, data.corpus().features)),
        _held_out(loaded),
        config,
        {**facts, "metrics": metrics["validation"]},
        begin,
    )
    return manifests


def _features(config: Config) -> dict[str, str | None]:
    """The asset that holds each feature's vocabulary; None: it has none. Servers count by it."""
    own = {**config.query_features, **config.candidate_features}
    files = {
        name: f"{name}.txt" if isinstance(one, WITH_VOCABULARY) else None
        for name, one in own.items()
    }
    if config.history:
        files[config.history.name] = f"{config.history_vocabulary}.txt"
    return files


def _held_out(loaded: Run) -> npt.NDArray[np.float32]:
    """Embeddings of queries that were not trained on, `[num_queries, embedding_dim]`.

    Of the validation split, each query once; where it is empty, of the test or else train split.
    """
    counts = loaded.data.manifest["counts"]["examples"]
    order = (SPLITS[1], SPLITS[2], SPLITS[0])
    split = next((name for name in order if counts[name]["positives"]), SPLITS[0])
    examples = loaded.data.examples(split)
    _, first = np.unique(examples[layout.QUERY_ROW], return_index=True)
    draw = np.random.default_rng(loaded.config.training.seed)
    chosen = np.sort(draw.permutation(first)[:MAX_HELD_OUT])
    features = {name: examples[name][chosen] for name in loaded.config.query_features}
    return embed(loaded.model.query_tower, features)


def _digest(towers: list[keras.Model]) -> str:
    """SHA-256 over the weights of the towers."""
    digest = hashlib.sha256()
    for tower in towers:
        for variable in tower.variables:
            digest.update(f"{variable.dtype.name}{variable.shape}".encode())
            digest.update(np.ascontiguousarray(variable.numpy()).data)
    return digest.hexdigest()


def _write_queries(loaded: Run, folder: Path) -> None:
    """Writes what is known of every query as of now, by the name of the input that it fills in."""
    config = loaded.config
    files = loaded.data.files(layout.QUERIES)
    table = ds.dataset(files).to_table()
    key = config.query_id.name if config.query_id else config.columns.query_id
    columns = {key: table.column(layout.QUERY_ID)}
    for name, feature in config.features.query.items():
        if isinstance(feature, History):
            columns[name] = table.column(layout.HISTORY_NOW)
        elif name != key:
            columns[name] = table.column(name)
    stored = pa.table(columns).replace_schema_metadata({QUERY_KEY: key}).sort_by(key)
    if config.rules.exclude_known:  # The order of ids is that of query rows.
        stored = stored.append_column(EXCLUDE_IDS, _known_positives(loaded, len(stored)))
    folder.mkdir()
    pq.write_table(stored, folder / PART, row_group_size=QUERIES_A_GROUP)


def _known_positives(loaded: Run, num_queries: int) -> pa.ListArray:
    """The ids of each query's positives in all splits, by query row, sorted.

    Of more than `MAX_KNOWN` the first are kept: those of the test split, of validation, of train,
    each by id.
    """
    data = loaded.data
    candidate_ids = data.candidate_table().column(layout.CANDIDATE_ID)
    size = len(candidate_ids)
    found = []  # Pairs as one number each: query row * size + candidate row.
    for split in reversed(SPLITS[1:]):
        events = data.events(split)
        keys = events[layout.QUERY_ROW].astype(np.int64) * size + events[layout.CANDIDATE_ROW]
        found.append(np.unique(keys[events[layout.LABEL] == 1]))
    queries, candidates = data.known_positives()
    found.append(queries * size + candidates)
    keys = np.concatenate(found)
    keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    keys = keys[np.argsort(keys // size, kind="stable")]
    queries = keys // size
    keys = np.sort(keys[np.arange(len(keys)) - np.searchsorted(queries, queries) < MAX_KNOWN])
    queries, candidates = np.divmod(keys, size)
    offsets = np.searchsorted(queries, np.arange(num_queries + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, candidate_ids.take(candidates).combine_chunks())

"""A whole version: the server's config, where its models come from, what the index holds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tfrs_twotower.features.raw_inputs import query_inputs
from tfrs_twotower.index.memory import available_bytes, readable
from tfrs_twotower.publishing.doctor.findings import EXPORT_AGAIN, Finding
from tfrs_twotower.publishing.indexes import EMBEDDING, matrix
from tfrs_twotower.publishing.models_folder import (
    asked_model,
    models_of,
    query_key,
    read_config,
    read_model_manifest,
    versions,
)
from tfrs_twotower.publishing.saved_model_reader import (
    Floats,
    LoadedQueryTower,
    LoadedSignature,
    embed_candidates,
    embed_queries,
)
from tfrs_twotower.schema import Config, UserError
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    CANDIDATES,
    QUERIES,
    QUERY_TOWER,
    RETRIEVAL_MODELS,
    SIMILARITY,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID

NUM_SAMPLED, NUM_SAMPLED_QUERIES = 100, 10
SAME_VECTOR = 1e-5
UNREADABLE = (OSError, UnicodeDecodeError, text_format.ParseError)
REFRESH = "refresh the index with `twotower refresh`"


def check_config_file(path: Path, models: Path) -> Iterator[Finding]:
    """The server's config: readable, absolute, of versions that are there."""
    write_again = "write it with `twotower promote`, or remove it and export"
    try:
        configs = _read_configs(path)
    except UNREADABLE as error:
        yield Finding("error", path.name, f"it cannot be read: {error}", write_again)
        return
    sound = True
    for config in configs:
        if not config.base_path.startswith("/"):
            sound = False
            yield Finding(
                "error",
                path.name,
                f"the base path of {config.name} is relative, which TF Serving refuses",
                "export with --config_base_path=/where/the/server/sees/it",
            )
        gone = sorted(_named(config) - set(versions(models / config.name)))
        if gone:
            sound = False
            yield Finding(
                "error",
                path.name,
                f"it names version {gone[0]} of {config.name}, which is not there",
                "`twotower promote` a version that is",
            )
    if sound:
        yield Finding("ok", path.name, "absolute base paths, versions that are there")


def served_versions(path: Path) -> set[int]:
    """The versions that a server's config names; none where it cannot be read."""
    try:
        return {version for config in _read_configs(path) for version in _named(config)}
    except UNREADABLE:
        return set()


def _read_configs(path: Path) -> list[model_server_config_pb2.ModelConfig]:
    proto = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(path.read_text(encoding="utf-8"), proto)
    return list(proto.model_config_list.config)


def _named(config: model_server_config_pb2.ModelConfig) -> set[int]:
    """The versions that a model's config asks for by policy or label."""
    return {*config.model_version_policy.specific.versions, *config.version_labels.values()}


def check_same_origin(models: Path, version: int) -> Iterator[Finding]:
    """All models of a version must come from the same towers and schema."""
    names = models_of(models, version)
    manifests = {name: read_model_manifest(models, name, version) for name in names}
    where = f"version {version}"
    for fact, called in (("towers_digest", "towers"), ("schema_fingerprint", "schema")):
        values = {name: manifest.get(fact) for name, manifest in manifests.items()}
        if len(set(values.values())) > 1:
            asked = asked_model(models, version)
            odd = [name for name, value in values.items() if value != values[asked]]
            yield Finding(
                "error",
                where,
                f"{', '.join(odd)} and {asked} are of different {called}: versions were mixed",
                EXPORT_AGAIN,
            )
            return
    yield Finding("ok", where, "all models are of the same towers and schema")


def check_index(models: Path, version: int) -> Iterator[Finding]:
    """A sample of candidates, embedded anew, against what is stored and what is searched.

    The scores of a scoring layer are not compared: those are no dot products.
    """
    where = f"version {version}"
    try:
        config = read_config(models, version)
    except UserError as error:
        yield Finding("warning", where, str(error), "")
        return
    table = ds.dataset(models / CANDIDATES / str(version)).to_table()
    size = len(table)
    asked = asked_model(models, version)
    corpus_size = read_model_manifest(models, asked, version)["corpus_size"]
    if size != corpus_size:
        yield Finding(
            "error",
            where,
            f"{CANDIDATES} has {size} candidates, {asked} {corpus_size}",
            EXPORT_AGAIN,
        )
        return
    sample = table.take(np.unique(np.linspace(0, size - 1, NUM_SAMPLED).astype(np.int64)))
    has_scorer = config.context_mode == "scoring_layer"
    tower = LoadedSignature(models / CANDIDATE_TOWER / str(version))
    embedded = embed_candidates(tower, config.candidate_features, sample)
    off = np.abs(embedded - matrix(sample, EMBEDDING)).max(axis=1)
    if (off > SAME_VECTOR).any():
        example = sample.column(CANDIDATE_ID)[int(off.argmax())].as_py()
        yield Finding(
            "error",
            where,
            f"{np.mean(off > SAME_VECTOR):.0%} of {len(sample)} candidates, such as {example!r}, "
            f"are stored with another vector than {CANDIDATE_TOWER} gives",
            EXPORT_AGAIN if has_scorer else REFRESH,
        )
        return
    for name in models_of(models, version):
        if name == SIMILARITY:
            yield _check_similarity(models, version, config, sample, embedded)
        elif name in RETRIEVAL_MODELS and not has_scorer:
            yield _check_scores(models, name, version, config, sample, embedded)


def _check_scores(
    models: Path, name: str, version: int, config: Config, sample: pa.Table, embedded: Floats
) -> Finding:
    """`score` of a model must be the product of the towers' vectors."""
    queries = _sampled_queries(models, version)
    inputs = query_inputs(config.query_features, queries)
    query_embeddings = LoadedQueryTower(models / QUERY_TOWER / str(version))(inputs).numpy()
    score = LoadedSignature(models / name / str(version), "score")
    scores = score({**inputs, "candidate_ids": _ids(sample)})["scores"].numpy()
    return _compared(f"{name}/{version}", scores, query_embeddings @ embedded.T, REFRESH)


def _check_similarity(
    models: Path, version: int, config: Config, sample: pa.Table, embedded: Floats
) -> Finding:
    """`score` of `similarity`, without stored queries `score_embedding`, must be that product."""
    queries = _sampled_queries(models, version)
    if config.context_mode is None and len(queries):
        tower = LoadedQueryTower(models / QUERY_TOWER / str(version))
        query_embeddings = embed_queries(tower, config.features.query, queries)
        ids = queries.column(query_key(models, version)).to_pylist()
        name, given = "score", {"query_id": tf.constant(ids)}
    else:
        query_embeddings = embedded[:NUM_SAMPLED_QUERIES]
        name, given = "score_embedding", {"query_embedding": tf.constant(query_embeddings)}
    score = LoadedSignature(models / SIMILARITY / str(version), name)
    scores = score({**given, "candidate_ids": _ids(sample)})["scores"].numpy()
    expected = query_embeddings @ embedded.T
    return _compared(f"{SIMILARITY}/{version}", scores, expected, EXPORT_AGAIN)


def _sampled_queries(models: Path, version: int) -> pa.Table:
    return ds.dataset(models / QUERIES / str(version)).head(NUM_SAMPLED_QUERIES)


def _ids(sample: pa.Table) -> tf.Tensor:
    return tf.constant([sample.column(CANDIDATE_ID).to_pylist()])


def _compared(where: str, scores: Floats, expected: Floats, cure: str) -> Finding:
    if (np.abs(scores - expected) > SAME_VECTOR).any():
        return Finding(
            "error",
            where,
            "its scores are not those of the towers: its vectors are of another version",
            cure,
        )
    num_candidates = expected.shape[1]
    return Finding("ok", where, f"{num_candidates} candidates have the scores of the towers")


def check_swap(models: Path, version: int) -> Iterator[Finding]:
    """A server holds two versions while it swaps them."""
    names = models_of(models, version)
    manifests = [read_model_manifest(models, name, version) for name in names]
    needed = 2 * sum(int(manifest["memory_bytes"]) for manifest in manifests)
    available = available_bytes()
    where = f"version {version}"
    if available is not None and needed > available:
        yield Finding(
            "error",
            where,
            f"two versions take {readable(needed)} while a server swaps them, "
            f"{readable(available)} are free",
            "serve on a machine with more memory",
        )
    else:
        yield Finding("ok", where, f"two versions take {readable(needed)} during a swap")

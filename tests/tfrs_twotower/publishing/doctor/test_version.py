"""Versions whose parts do not fit together: each is caught, and the cure is named."""

import json
import shutil
from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.doctor import Finding, version
from tfrs_twotower.publishing.doctor.version import (
    check_config_file,
    check_index,
    check_same_origin,
    check_swap,
)
from tfrs_twotower.publishing.indexes import matrix, vectors
from tfrs_twotower.publishing.models_folder import read_config
from tfrs_twotower.publishing.saved_model_reader import LoadedQueryTower
from tfrs_twotower.publishing.similarity_export import write_similarity
from tfrs_twotower.retrieval.retriever import CandidateIds


def the_error(findings: Iterable[Finding]) -> Finding:
    """The one error, which must have a cure."""
    found = [finding for finding in findings if finding.level == "error"]
    assert len(found) == 1, found
    assert found[0].cure
    return found[0]


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda stored: -stored, id="opposite"),
        pytest.param(lambda stored: stored + np.float32(1e-4), id="a little off"),
    ],
)
def test_vectors_of_other_towers_are_caught(models, change):
    path = models / "candidates/1/part-00000.parquet"
    table = pq.read_table(path)
    other = vectors(change(matrix(table, "embedding")))
    pq.write_table(table.set_column(1, "embedding", other), path)

    error = the_error(check_index(models, 1))

    assert "100% of 20 candidates" in error.what
    assert "twotower refresh" in error.cure


def test_an_index_of_another_version_is_caught(models):
    """The stored vectors are right, those within the graph are not."""
    folder = models / "retrieval_exact" / "1" / "variables"
    reader = tf.train.load_checkpoint(str(folder / "variables"))
    dtypes = reader.get_variable_to_dtype_map()
    tensors = {name: tf.constant(reader.get_tensor(name), dtype) for name, dtype in dtypes.items()}
    stored = pq.read_table(models / "candidates/1/part-00000.parquet")
    shape = matrix(stored, "embedding").shape
    embeddings = [name for name, tensor in tensors.items() if tensor.shape == shape]
    assert len(embeddings) == 1
    tensors[embeddings[0]] = -tensors[embeddings[0]]
    tf.raw_ops.SaveV2(
        prefix=str(folder / "variables"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )

    error = the_error(check_index(models, 1))

    assert error.where == "retrieval_exact/1"
    assert "its scores are not those of the towers" in error.what


def same(value):
    return value


def opposite(value):
    return -value


def add_similarity(models, *, of_candidates=same, of_queries=same):
    """Adds `similarity` to version 1, with vectors that may be others."""
    folder = models / "similarity"
    shutil.copytree(models / "queries" / "1", folder / "queries")
    stored = pq.read_table(models / "candidates/1/part-00000.parquet")
    tower = LoadedQueryTower(models / "query_tower" / "1")
    write_similarity(
        folder,
        lambda inputs: of_queries(tower(inputs)),
        CandidateIds(stored.column("candidate_id").to_pylist()),
        of_candidates(matrix(stored, "embedding")),
        read_config(models, 1),
        facts={},
    )
    (folder / "similarity").rename(folder / "1")


@pytest.mark.parametrize(
    ("num_queries", "others", "level"),
    [
        pytest.param(20, {}, "ok", id="sound", marks=pytest.mark.slow),
        pytest.param(20, {"of_candidates": opposite}, "error", id="other candidates"),
        pytest.param(
            20, {"of_queries": opposite}, "error", id="other queries", marks=pytest.mark.slow
        ),
        pytest.param(
            0, {"of_candidates": opposite}, "error", id="no stored query", marks=pytest.mark.slow
        ),
    ],
)
def test_the_vectors_of_similarity_are_compared(models, num_queries, others, level):
    path = models / "queries/1/part-00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, num_queries), path)
    add_similarity(models, **others)

    found = {finding.where: finding for finding in check_index(models, 1)}

    assert found["similarity/1"].level == level
    assert {found[f"{name}/1"].level for name in ("retrieval", "retrieval_exact")} == {"ok"}


def test_a_corpus_of_another_size_is_caught(models):
    path = models / "candidates/1/part-00000.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)

    assert "candidates has 19 candidates, retrieval 20" in the_error(check_index(models, 1)).what


@pytest.mark.parametrize(
    ("fact", "called"), [("towers_digest", "towers"), ("schema_fingerprint", "schema")]
)
def test_mixed_versions_are_caught(models, fact, called):
    path = models / "query_tower/1/assets.extra/manifest.json"
    change_json(path, lambda manifest: manifest.update({fact: "other"}))

    error = the_error(check_same_origin(models, 1))

    assert f"query_tower and retrieval are of different {called}" in error.what


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param('base_path: "/', 'base_path: "', "relative", id="relative"),
        pytest.param("model_config_list", "models", "cannot be read", id="damaged"),
        pytest.param(
            'model_platform: "tensorflow"',
            'model_platform: "tensorflow" version_labels { key: "stable" value: 7 }',
            "names version 7",
            id="gone",
        ),
    ],
)
def test_a_config_that_a_server_refuses_is_caught(models, old, new, message):
    path = models / "models.config"
    path.write_text(path.read_text().replace(old, new))

    found = list(check_config_file(path, models))

    assert {(finding.level, finding.where) for finding in found} == {("error", "models.config")}
    assert all(message in finding.what and finding.cure for finding in found)


def test_a_swap_that_does_not_fit_into_memory_is_caught(models, monkeypatch):
    monkeypatch.setattr(version, "available_bytes", lambda: 1000)

    assert "while a server swaps them" in the_error(check_swap(models, 1)).what


@pytest.mark.parametrize("check", [check_index, check_same_origin, check_swap])
def test_a_sound_version_is_sound(exported_once, check):
    assert {finding.level for finding in check(exported_once, 1)} == {"ok"}

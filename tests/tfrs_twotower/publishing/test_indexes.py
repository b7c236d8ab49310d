"""The folders of a version that depend on the corpus."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfrs_twotower.index import IndexParameters, memory
from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.earlier_indexes import EarlierVersion
from tfrs_twotower.publishing.indexes import (
    Corpus,
    QuerySide,
    build_forecasts,
    check_memory,
    matrix,
    scann_index,
    vectors,
    write_indexes,
)
from tfrs_twotower.publishing.saved_model_reader import LoadedSignature
from tfrs_twotower.schema import UserError, parse_config
from tfrs_twotower.schema.index import Index

# The fixture tunes and writes three indexes.
pytestmark = pytest.mark.slow

CONFIG = """\
columns: {timestamp: ts}
features:
  query: {taste: {kind: vector, dimension: 4}}
  candidate: {genres: {kind: multi_categorical}}
rules: {filters: [genres]}
index: {brute_force_below: 0, target_recall: 0.9, at: 10}
"""
SIZE = 600


class Taste(tf.Module):
    """A query tower that hands its one feature through."""

    inputs = {"taste": tf.TensorSpec([None, 4], tf.float32, "taste")}

    def __call__(self, raw):
        return raw["taste"]


def unit_rows(num_rows: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num_rows, 4))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


EMBEDDINGS, QUERIES = unit_rows(SIZE, 0), unit_rows(200, 1)
CANDIDATES = pa.table(
    {
        "candidate_id": sorted(f"c{number}" for number in range(SIZE)),
        "genres": [["rare"] if row % 200 == 7 else ["common"] for row in range(SIZE)],
    }
)


CORPUS = Corpus(CANDIDATES, EMBEDDINGS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staging")
    config = parse_config(CONFIG, "here")
    return folder, write_indexes(
        folder, QuerySide(Taste()), CORPUS, QUERIES, config, {"towers_digest": "0"}
    )


def test_the_index_is_tuned_and_the_table_is_in_the_manifest(written):
    _, manifests = written

    manifest = manifests["retrieval"]
    chosen = manifest["tuning"]["chosen"]
    assert manifest["index"]["num_leaves"] == chosen["num_leaves"]
    assert manifest["index"]["leaves_to_search"] >= chosen["leaves_to_search"]
    assert "tuning" not in manifests["retrieval_exact"]


def test_the_manifest_says_on_how_many_queries_it_was_tuned_and_on_how_many_promised(written):
    manifest = written[1]["retrieval"]

    recall = manifest["recall"]
    assert (recall["num_tuning_queries"], recall["num_queries"]) == (100, 100)
    assert manifest["tuning"]["num_queries"] == 100
    assert recall["at_least"] == manifest["tuning"]["target_recall"] == 0.9


def test_without_a_target_nothing_is_tuned_and_every_query_measures(written):
    index, found = scann_index(EMBEDDINGS, QUERIES, Index(brute_force_below=0, at=10))

    assert found.keys() == {"recall"}
    assert (found["recall"]["num_tuning_queries"], found["recall"]["num_queries"]) == (0, 200)
    assert index.parameters == IndexParameters.for_corpus(SIZE, at=10)


def test_the_inverted_lists_have_a_promise_of_their_own_and_need_no_ops_of_others(written):
    manifest = written[1]["retrieval_stock"]

    assert manifest["index"]["kind"] == "ivf"
    assert manifest["custom_ops"] == []
    assert manifest["recall"]["at_least"] == 0.9
    chosen = manifest["tuning"]["chosen"]
    assert manifest["index"]["leaves_to_search"] >= chosen["leaves_to_search"]


@pytest.mark.parametrize(
    ("settings", "brute_force_below"), [(["export.retrieval_stock=false"], 0), ([], SIZE + 1)]
)
def test_no_inverted_lists_where_they_are_not_wanted_or_not_worth_it(
    tmp_path, settings, brute_force_below
):
    settings = [
        *settings,
        "export.retrieval=false",
        f"index={{brute_force_below: {brute_force_below}}}",
    ]
    config = parse_config(CONFIG, "here", settings)

    manifests = write_indexes(tmp_path, QuerySide(Taste()), CORPUS, QUERIES, config, {})

    assert manifests.keys() == {"retrieval_exact"}


def test_without_scann_the_inverted_lists_keep_the_queries_that_measure_recall(tmp_path):
    settings = ["export.retrieval=false", "index={brute_force_below: 0, at: 10}"]
    config = parse_config(CONFIG, "here", settings)

    manifests = write_indexes(tmp_path, QuerySide(Taste()), CORPUS, QUERIES, config, {})

    assert manifests["retrieval_stock"]["recall"]["num_queries"] == len(QUERIES)
    kept = pq.read_table(tmp_path / "retrieval_stock/assets.extra/held_out_queries.parquet")
    np.testing.assert_array_equal(matrix(kept, "query_embedding"), QUERIES)


def test_all_models_are_asked_with_the_rules_of_the_config(written):
    folder, _ = written

    for name in ("retrieval", "retrieval_stock", "retrieval_exact"):
        recommend = LoadedSignature(folder / name, "recommend")
        neutral = {
            key: tf.constant([[""]]) if spec.dtype == tf.string else tf.constant([0], spec.dtype)
            for key, spec in recommend.inputs.items()
        }
        answer = recommend(
            {
                **neutral,
                "taste": tf.constant(QUERIES[:1]),
                "k": tf.constant([5]),
                "mmr_lambda": tf.constant([1.0]),
                "min_score": tf.constant([-1.0]),
                "filter_genres_any": tf.constant([["rare"]]),
            }
        )
        rare = {CANDIDATES["candidate_id"][row].as_py().encode() for row in (7, 207, 407)}
        assert set(answer["candidate_ids"].numpy()[0]) == rare | {b""}


def test_candidates_and_their_vectors_are_stored_in_the_order_of_rows(written):
    folder, _ = written

    stored = pq.read_table(folder / "candidates/part-00000.parquet")

    assert stored.column_names == ["candidate_id", "embedding", "genres"]
    np.testing.assert_array_equal(matrix(stored, "embedding"), EMBEDDINGS)


def test_a_version_is_made_of_the_indexes_of_the_one_before(written, tmp_path):
    models, staging = tmp_path / "models", tmp_path / "staging"
    for name in ("retrieval", "retrieval_stock"):
        (models / name).mkdir(parents=True)
        (models / name / "1").symlink_to(written[0] / name)
    staging.mkdir()
    kept = Corpus(CANDIDATES.slice(1), EMBEDDINGS[1:])
    earlier = EarlierVersion(models, 1, np.arange(-1, SIZE - 1, dtype=np.int32))

    config = parse_config(CONFIG, "here")
    made = write_indexes(staging, QuerySide(Taste()), kept, QUERIES, config, {}, earlier=earlier)

    for name in ("retrieval", "retrieval_stock"):
        assert made[name]["tuning"] == written[1][name]["tuning"]
        recommend = LoadedSignature(staging / name, "serving_default")
        for row in (0, 1):
            answer = recommend({"taste": tf.constant(EMBEDDINGS[row : row + 1])})
            best = answer["candidate_ids"].numpy()[0, 0].decode()
            assert (best == CANDIDATES["candidate_id"][row].as_py()) == (row == 1)


def test_a_target_needs_queries_to_measure_on(tmp_path):
    config = parse_config(CONFIG, "here")

    with pytest.raises(UserError, match="held-out queries"):
        write_indexes(tmp_path, QuerySide(Taste()), CORPUS, QUERIES[:0], config, {})


def test_too_little_memory_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)

    with pytest.raises(UserError, match="600 candidates of 4 dimensions"):
        write_indexes(
            tmp_path, QuerySide(Taste()), CORPUS, QUERIES, parse_config(CONFIG, "here"), {}
        )

    assert list(tmp_path.iterdir()) == []


def large(export="", index="target_recall: 0.95"):
    """The config of ten million candidates of 64 dimensions, and the forecasts of its indexes."""
    features = CONFIG.partition("index:")[0]
    config = parse_config(f"{features}export: {{{export}}}\nindex: {{{index}}}\n", "here")
    return config, build_forecasts(10_000_000, 64, config, is_searchable=True)


def test_memory_is_forecast_of_the_models_that_are_built():
    _, forecasts = large()
    _, without_scann = large(export="retrieval: false")
    _, scann_alone = large(export="retrieval_stock: false")

    assert list(forecasts) == ["retrieval_exact", "retrieval_stock", "retrieval"]
    assert forecasts["retrieval_exact"] < forecasts["retrieval_stock"] < forecasts["retrieval"]
    assert without_scann == {name: forecasts[name] for name in list(forecasts)[:2]}
    assert set(scann_alone) == {"retrieval_exact", "retrieval"}


@pytest.mark.parametrize(
    ("name", "index", "cure"),
    [
        (
            "retrieval",
            "leaf_dtype: bfloat16",
            "24.3 GB, 6.0 GB .* `export.retrieval: false` takes 10.6",
        ),
        ("retrieval_stock", "leaf_dtype: float32", "set `index.leaf_dtype: bfloat16`"),
        (
            "retrieval_stock",
            "leaf_dtype: bfloat16",
            "free: lower `towers.embedding_dim`",
        ),
        (
            "retrieval_exact",
            "leaf_dtype: bfloat16",
            "7.7 GB, .* free: lower `towers.emb",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_helps(name, index, cure, monkeypatch):
    config, forecasts = large(index=f"target_recall: 0.95, {index}")
    monkeypatch.setattr(memory, "available_bytes", lambda: 6_000_000_000)

    with pytest.raises(UserError, match=cure):
        check_memory(name, forecasts, 10_000_000, 64, config)


def test_vectors_survive_the_way_through_arrow():
    table = pa.table({"v": vectors(EMBEDDINGS)})

    np.testing.assert_array_equal(matrix(table.slice(5, 3), "v"), EMBEDDINGS[5:8])

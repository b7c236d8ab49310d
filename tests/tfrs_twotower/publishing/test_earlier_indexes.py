"""The indexes of a version, corrected for another corpus, and again for the next."""

import json

import numpy as np
import pytest

from tfrs_twotower.index import memory
from tfrs_twotower.index.exact import ExactIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.earlier_indexes import EarlierVersion
from tfrs_twotower.publishing.indexes import ivf_index, scann_index
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index

# Two indexes are built, and corrected.
pytestmark = pytest.mark.slow

SIZE, DIMENSION, AT = 600, 4, 10
CONFIG = Index(
    brute_force_below=0,
    target_recall=0.9,
    at=AT,
    num_leaves=20,
    dimensions_per_block=2,
    leaf_dtype="bfloat16",
)
BUILD = {"retrieval": scann_index, "retrieval_stock": ivf_index}


def unit_rows(num_rows: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num_rows, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


QUERIES, EMBEDDINGS = unit_rows(200, 1), unit_rows(SIZE, 0)


def save(models, name, version, index, found):
    """The variables of an index where a retriever has them, and its manifest."""
    module = tf.Module()
    module._index = index
    folder = models / name / str(version)
    tf.saved_model.save(module, str(folder))
    (folder / "assets.extra").mkdir()
    manifest = {"index": json.loads(json.dumps(index.description)), **found}
    (folder / "assets.extra/manifest.json").write_text(json.dumps(manifest))


def after(embeddings, gone, num_new, seed):
    """Another corpus, and the new rows of the candidates: new ones stand before the others."""
    is_kept = np.ones(len(embeddings), bool)
    is_kept[gone] = False
    rows = np.where(is_kept, num_new + np.cumsum(is_kept) - 1, -1).astype(np.int32)
    return np.concatenate([unit_rows(num_new, seed), embeddings[is_kept]]), rows


@pytest.fixture(scope="module", params=["retrieval", "retrieval_stock"])
def twice(request, tmp_path_factory):
    """Version 1 is built, 2 and 3 are each made of the one before."""
    models, name = tmp_path_factory.mktemp("models"), request.param
    index, found = BUILD[name](EMBEDDINGS, QUERIES, CONFIG)
    save(models, name, 1, index, found)
    embeddings = EMBEDDINGS
    for version, (gone, num_new) in {2: ([3, 4, 599], 5), 3: ([0, 9], 2)}.items():
        embeddings, rows = after(embeddings, gone, num_new, seed=10 + version)
        earlier = EarlierVersion(models, version - 1, rows)
        index, made = earlier.corrected(name, embeddings, QUERIES, CONFIG)
        save(models, name, version, index, made)
    return models, name, found, embeddings, index, made


def test_the_memory_of_a_correction_is_forecast_from_what_is_stored(tmp_path, monkeypatch):
    module = tf.Module()
    module._index = tf.Module()
    module._index.embeddings = tf.Variable(tf.zeros([10, 4]))
    module.others = tf.Variable(tf.zeros([1000]))
    tf.saved_model.save(module, str(tmp_path / "retrieval/1"))
    earlier = EarlierVersion(tmp_path, 1, np.arange(10, dtype=np.int32))

    # 160 bytes: the embeddings of the tree, and those of the corpus beside them; both three times.
    assert earlier.check_memory() == 960

    module._index._vectors = tf.Variable(tf.zeros([3, 5, 4]))
    module._index._rows = tf.Variable(tf.zeros([3, 5], tf.int32))
    tf.saved_model.save(module, str(tmp_path / "retrieval_stock/1"))

    # Lists of 240 bytes and their rows of 60 beside the embeddings.
    assert earlier.check_memory() == 3 * (160 + 240 + 60)

    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    with pytest.raises(UserError, match="version 1 takes about 0 MB, 0 MB are free"):
        earlier.check_memory()


def test_the_tree_and_its_promise_are_kept(twice):
    _, _, found, _, index, made = twice

    # Of five new ones the second refresh took one away.
    assert index.description["num_outside"] == 5 - 1 + 2
    assert made["tuning"] == json.loads(json.dumps(found["tuning"]))
    assert made["recall"]["at_least"] == 0.9
    assert made["recall"]["num_tuning_queries"] == 100


def test_what_is_new_is_found_and_every_score_is_exact(twice):
    _, _, _, embeddings, index, _ = twice
    exact = ExactIndex(embeddings)

    for row in (0, 1, 2, 5, 50):
        query = tf.constant(embeddings[row : row + 1])
        rows, scores = index.search(query, tf.constant(AT))
        assert rows.numpy()[0, 0] == row
        np.testing.assert_array_equal(scores, exact.score(query, rows))


def test_an_index_is_built_anew_where_too_much_has_changed(twice):
    models, name, *_ = twice
    embeddings, rows = after(EMBEDDINGS, list(range(7)), 0, 0)

    def made(share: float):
        config = CONFIG.model_copy(update={"refresh_rebuild_share": share})
        return EarlierVersion(models, 1, rows).corrected(name, embeddings, QUERIES, config)

    assert made(7 / len(embeddings)) is not None
    assert made(6 / len(embeddings)) is None


def test_leaves_of_another_type_are_built_anew(twice):
    models, name, *_ = twice
    config = CONFIG.model_copy(update={"leaf_dtype": "float32"})
    earlier = EarlierVersion(models, 1, np.arange(SIZE, dtype=np.int32))

    found = earlier.corrected(name, EMBEDDINGS, QUERIES, config)

    assert (found is None) == (name == "retrieval_stock")


def test_there_is_nothing_to_correct_where_the_earlier_version_had_no_such_model(twice):
    models, name, *_ = twice
    earlier = EarlierVersion(models, 9, np.arange(SIZE, dtype=np.int32))

    assert earlier.corrected(name, EMBEDDINGS, QUERIES, CONFIG) is None

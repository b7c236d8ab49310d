"""Histories whose candidates have features beside their ids."""

import numpy as np
import pytest

from tfrs_twotower.features.dense import DenseFeatures
from tfrs_twotower.features.history_candidates import HistoryCandidates, by_history_row
from tfrs_twotower.features.history_encoders import SharedHistories
from tfrs_twotower.keras import tf
from tfrs_twotower.schema.features import (
    Categorical,
    Feature,
    History,
    Id,
    MultiCategorical,
    Number,
)
from tfrs_twotower.schema.prepared import NumberStatistics

FEATURES: dict[str, Feature] = {
    "item": Id(oov_buckets=2),
    "shelf": Categorical(missing="indicator"),
    "tags": MultiCategorical(max_length=2),
    "price": Number(normalize="none", missing="zero"),
}
# The history lists three candidates, in rows 3, 4 and 5: the last has no row of its own as an id.
NUM_ROWS = 6
PLACED = {
    "item": np.array([0, 1, 2, 3, 4, 1], np.int32),
    "shelf": np.array([0, 0, 0, 2, 3, 2], np.int32),
    "tags": np.array([[0, 0], [0, 0], [0, 0], [2, 3], [0, 0], [3, 0]], np.int32),
    "price": np.array([np.nan, np.nan, np.nan, 1.0, np.nan, 4.0], np.float32),
}


def test_candidates_stand_in_the_rows_of_the_history(tmp_path):
    for name, tokens in {"item": "a\nb\n", "shelf": "x\ny\n", "tags": "p\nq\n"}.items():
        (tmp_path / f"{name}.txt").write_text(tokens)
    rows = np.array([5, 4, 1, 3])  # The third candidate is not listed: it stays unknown.
    encoded = {
        "item": np.array([1, 4, 2, 3]),
        "shelf": np.array([2, 3, 3, 2]),
        "tags": np.array([[3, 0], [0, 0], [2, 0], [2, 3]]),
        "price": np.array([4.0, np.nan, 9.0, 1.0]),
    }

    placed = by_history_row(FEATURES, tmp_path, NUM_ROWS, rows, encoded)

    assert list(placed) == list(PLACED)
    for name, expected in PLACED.items():
        np.testing.assert_array_equal(placed[name], expected)
        assert placed[name].dtype == expected.dtype


def test_a_row_whose_candidate_is_not_given_is_an_unknown_one(tmp_path):
    for name in ("item", "shelf", "tags"):
        (tmp_path / f"{name}.txt").write_text("a\n")
    none = {name: values[:0] for name, values in PLACED.items()}

    placed = by_history_row(FEATURES, tmp_path, NUM_ROWS, np.zeros(0, np.int64), none)

    assert placed["item"].tolist() == [0, 1, 2, 1, 1, 1]
    assert not placed["shelf"].any()
    assert np.isnan(placed["price"]).all()


def table(num_rows: int, width: int, seed: int) -> tf.keras.layers.Embedding:
    made = tf.keras.layers.Embedding(num_rows, width)
    made.build(None)
    made.set_weights([np.random.default_rng(seed).normal(size=[num_rows, width])])
    return made


@pytest.fixture
def candidates():
    """The layer, and what it does with one candidate, from the definition."""
    ids, shelves, tags = table(5, 3, 1), table(4, 2, 2), table(4, 2, 3)
    of_content = {name: one for name, one in FEATURES.items() if name != "item"}
    of_price = {"price": NumberStatistics(3, 0.0, 1.0, 0.0, 1.0, ())}
    tables = {"shelf": shelves, "tags": tags}
    dense = DenseFeatures(of_content, tables, of_price, seed=1, name="content")
    layer = HistoryCandidates("item", ids, dense, PLACED, seed=1, name="past")
    layer(tf.zeros([1], tf.int64))

    def by_hand(row: int) -> np.ndarray:
        of_ids, of_shelves, of_tags = (one.get_weights()[0] for one in (ids, shelves, tags))
        own_tags = [tag for tag in PLACED["tags"][row] if tag]
        tag = of_tags[own_tags].mean(axis=0) if own_tags else np.zeros(2)
        price = np.nan_to_num(PLACED["price"][[row]])
        content = np.concatenate([of_shelves[PLACED["shelf"][row]], tag, price])
        [kernel] = [one.numpy() for one in layer.trainable_variables if "kernel" in one.name]
        return of_ids[PLACED["item"][row]] + content @ kernel

    return layer, by_hand


def test_an_embedding_is_that_of_the_id_and_of_the_features(candidates):
    layer, by_hand = candidates

    found = layer(tf.constant([[3, 5, 3], [4, 1, 0]])).numpy()

    assert found.shape == (2, 3, 3)
    expected = [[by_hand(row) for row in rows] for rows in ([3, 5, 3], [4, 1, 0])]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_mean_history_is_the_mean_of_these(candidates):
    layer, by_hand = candidates
    features = DenseFeatures({"past": History(length=4)}, {"past": layer}, {}, seed=1, name="query")

    found = features({"past": tf.constant([[3, 5, 5, 0], [0, 0, 0, 0]])})

    mean = (by_hand(3) + 2 * by_hand(5)) / 3
    np.testing.assert_allclose(found, [mean, np.zeros(3)], atol=1e-6)


@pytest.mark.parametrize("encoder", ["gru", "attention"])
def test_an_ordered_history_reads_them_alike_in_training_and_serving(candidates, encoder):
    layer, _ = candidates
    history = History(length=3, encoder=encoder)
    features = DenseFeatures({"past": history}, {"past": layer}, {}, seed=1, name="query")

    served = features({"past": tf.constant([[3, 0, 0], [3, 5, 0], [4, 0, 0]], tf.int64)})
    shared = SharedHistories((tf.constant([[4]]), tf.constant([[3, 5]])), tf.constant([1, 2, 0]))
    trained = features({"past": shared})

    np.testing.assert_allclose(trained, served, atol=1e-5)
    # Row 5 and row 1 are the same id: that its features differ is heard.
    unknown = features({"past": tf.constant([[3, 1, 0]])})
    assert not np.allclose(served[1], unknown[0], atol=1e-3)


def test_what_the_candidates_are_is_not_trained(candidates):
    layer, _ = candidates

    trained = {variable.ref() for variable in layer.trainable_variables}

    assert not trained & {variable.ref() for variable in layer.encoded.values()}
    assert len(trained) == 4  # Ids, shelves, tags and the linear map.

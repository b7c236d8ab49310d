"""Batches with negatives: whose they are, what they carry, and the same again after a resume."""

import numpy as np
import pytest

from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data.batches import known_pairs, training_batches, training_examples
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import parse_config

CONFIG = """
features:
  query: {user: {kind: id}}
  candidate: {item: {kind: id, dropout: 0.5}, price: {kind: number}}
split: {by: random}
training: {batch_size: 6, seed: 3}
loss:
"""
CANDIDATES = ["a", "b", "c", "d", "e"]
# ann likes a, b, c and dislikes e; bob likes b, d and e; eve dislikes a alone.
LIKED = {"ann": "abc", "bob": "bde", "eve": ""}
DISLIKED = {"ann": "e", "bob": "", "eve": "a"}


def config(loss):
    return parse_config(CONFIG + f"  {loss}\n", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    queries = sorted(LIKED)
    return write_prepared_folder(
        tmp_path_factory.mktemp("data") / "prepared",
        config("{}"),
        vocabularies={"user": queries, "item": CANDIDATES},
        candidates={
            name: {"item": 2 + row, "price": 10.0 * row} for row, name in enumerate(CANDIDATES)
        },
        examples={
            "train": [
                Example(query, candidate, {"user": 2 + queries.index(query)}, label=label)
                for label, taste in ((1, LIKED), (0, DISLIKED))
                for query in queries
                for candidate in taste[query]
            ]
        },
    )


def batches(folder, loss, epochs=range(1), mined=None):
    data = PreparedData(folder, config(loss))
    found = training_batches(
        data.examples("train"), data.corpus(), data.config, epochs, mined=mined
    )
    return list(found.as_numpy_iterator())


def test_a_batch_holds_the_inputs_of_each_tower_apart_and_negatives_likewise(folder):
    (batch,) = batches(folder, "{uniform_negatives: 4, implicit_negatives: 2}")

    assert {name: sorted(value) for name, value in batch.items() if isinstance(value, dict)} == {
        "query": ["user"],
        "candidate": ["item", "price"],
        "uniform_negatives": ["candidate", "candidate_log_q", "candidate_row"],
        "own_negatives": ["candidate", "candidate_row"],
    }
    assert batch["uniform_negatives"]["candidate"].keys() == batch["candidate"].keys()
    assert batch.keys() - {"query", "candidate", "uniform_negatives", "own_negatives"} == {
        *("candidate_row", "weight", "candidate_log_q", "known_positives")
    }


def test_explicit_negatives_are_the_query_s_own_with_their_features(folder):
    (batch,) = batches(folder, "{kind: margin, implicit_negatives: 0}")

    assert batch["own_negatives"]["candidate_row"].shape == (6, 1)
    is_ann = batch["query"]["user"] == 2
    assert is_ann.sum() == 3
    np.testing.assert_array_equal(batch["own_negatives"]["candidate_row"][is_ann], [[4]] * 3)
    np.testing.assert_array_equal(
        batch["own_negatives"]["candidate"]["price"][is_ann], [[40.0]] * 3
    )
    # bob dislikes nothing.
    np.testing.assert_array_equal(batch["own_negatives"]["candidate_row"][~is_ann], [[-1]] * 3)


def test_implicit_negatives_are_what_the_query_does_not_like(folder):
    loss = "{kind: bpr, explicit_negatives: 0, implicit_negatives: 50}"
    (batch,) = batches(folder, loss)

    rows = batch["own_negatives"]["candidate_row"]
    drawn = {user: set(rows[batch["query"]["user"] == user].ravel()) for user in (2, 3)}
    assert drawn == {2: {-1, 3, 4}, 3: {-1, 0, 2}}
    is_there = rows >= 0
    np.testing.assert_array_equal(
        batch["own_negatives"]["candidate"]["price"][is_there], 10.0 * rows[is_there]
    )


def test_few_explicit_negatives_are_joined_by_implicit_ones(folder):
    """Two events labelled 0 to six positives are over 0.3; one would be under."""
    (enough,) = batches(folder, "{kind: margin}")
    data = PreparedData(folder, config("{kind: margin}"))
    examples = data.examples("train")
    fewer = {name: values[:-1] for name, values in examples.items()}
    (joined,) = training_batches(fewer, data.corpus(), data.config, range(1)).as_numpy_iterator()

    assert enough["own_negatives"]["candidate_row"].shape == (6, 1)
    assert joined["own_negatives"]["candidate_row"].shape == (6, 1 + 4)


def test_uniform_negatives_are_shared_by_the_batch(folder):
    (batch,) = batches(folder, "{uniform_negatives: 300}")

    rows = batch["uniform_negatives"]["candidate_row"]
    np.testing.assert_allclose(np.bincount(rows), 60, atol=25)
    np.testing.assert_array_equal(batch["uniform_negatives"]["candidate"]["price"], 10.0 * rows)
    # Five other positives of six, b twice among them; 300 draws of five candidates.
    q = {0: 1 / 6, 1: 2 / 6}
    for row, share in q.items():
        expected = (5 * share + 300 / 5) / 305
        log_q = batch["uniform_negatives"]["candidate_log_q"][rows == row]
        np.testing.assert_allclose(np.exp(log_q), expected, rtol=1e-5)
        own_log_q = batch["candidate_log_q"][batch["candidate_row"] == row]
        np.testing.assert_allclose(np.exp(own_log_q), expected, rtol=1e-5)


def test_ids_of_negatives_are_dropped_as_often_as_those_of_positives(folder):
    """Or a model could tell a negative by its having an id."""
    (batch,) = batches(folder, "{uniform_negatives: 2000, implicit_negatives: 300}")

    for group in ("uniform_negatives", "own_negatives"):
        items = batch[group]["candidate"]["item"]
        assert np.mean(items == 1) == pytest.approx(0.5, abs=0.05)


def test_known_positives_are_the_query_s_own(folder):
    (batch,) = batches(folder, "{}")

    lists = [rows.tolist() for rows in batch["known_positives"]]
    known = dict(zip(batch["query"]["user"].tolist(), lists, strict=True))
    assert known == {2: [0, 1, 2], 3: [1, 3, 4]}


def test_labelled_pairs_are_stepped_through_with_their_labels(folder):
    data = PreparedData(folder, config("{kind: bce, implicit_negatives: 0}"))
    examples = training_examples(data.examples("train"), data.config)
    assert len(examples["label"]) == 8

    shown = set()
    for batch in batches(folder, "{kind: bce, implicit_negatives: 0}", range(8)):
        shown |= set(
            zip(
                batch["query"]["user"].tolist(),
                batch["candidate_row"].tolist(),
                batch["label"].tolist(),
                strict=True,
            )
        )
    assert {pair for pair in shown if pair[2] == 0} == {(2, 4, 0), (4, 0, 0)}
    assert len(shown) == 8


def test_mined_negatives_are_those_of_the_query(folder):
    mined = np.array([[3, 3], [0, 2], [-1, -1]])

    (batch,) = batches(folder, "{mined_negatives: 40}", mined=mined)

    rows = batch["own_negatives"]["candidate_row"]
    assert set(rows[batch["query"]["user"] == 2].ravel()) == {3}
    assert set(rows[batch["query"]["user"] == 3].ravel()) == {0, 2}


def test_a_resumed_training_sees_the_negatives_that_an_uninterrupted_one_sees(folder):
    loss = "{uniform_negatives: 20, implicit_negatives: 3, explicit_negatives: 1}"

    whole = batches(folder, loss, range(4))
    resumed = batches(folder, loss, range(2, 4))

    assert len(resumed) == len(whole) - 2
    for expected, batch in zip(whole[2:], resumed, strict=True):
        del batch["known_positives"], expected["known_positives"]
        tf.nest.map_structure(np.testing.assert_array_equal, batch, expected)
    first, second = (batch["uniform_negatives"]["candidate_row"] for batch in resumed)
    assert not np.array_equal(first, second)


def test_pairs_are_known_by_label(folder):
    examples = PreparedData(folder, config("{}")).examples("train")

    disliked = known_pairs(examples, 5, label=0).of_queries(np.arange(3))

    assert disliked.to_list() == [[4], [], [0]]

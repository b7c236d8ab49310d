"""Embeddings of ids are smoothed over the graph of what is trained on."""

import math

import numpy as np
import pytest

from tests import tiny_world
from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.schema import UsageError, UserError, parse_config
from tfrs_twotower.training.smoothing import GraphSmoothing, normalized_graph, smoothed

SHARE = 0.3


def by_definition(rows, others, embeddings, share):
    """Each edge by itself: e_i <- (1 - s) e_i + s sum over o, j of e_j / (d_o sqrt(d_i d_j))."""
    edges = set(zip(rows, others, strict=True))
    degree = {row: sum(edge[0] == row for edge in edges) for row in rows}
    other_degree = {other: sum(edge[1] == other for edge in edges) for other in others}
    expected = embeddings.astype(np.float64)
    for i in set(rows):
        reached = np.zeros(embeddings.shape[1])
        for j, o in edges:
            if (i, o) in edges:
                reached += embeddings[j] / (other_degree[o] * math.sqrt(degree[i] * degree[j]))
        expected[i] = (1.0 - share) * embeddings[i] + share * reached
    return expected


def test_the_sparse_products_are_the_sums_over_edges_and_a_repeated_edge_counts_once():
    draw = np.random.default_rng(3)
    rows, others = draw.integers(2, 9, 25), draw.integers(0, 6, 25)
    assert len(set(zip(rows, others, strict=True))) < 25
    embeddings = draw.normal(size=[10, 4]).astype(np.float32)

    linked, graph = normalized_graph(rows, others)
    embeddings_after = embeddings.copy()
    embeddings_after[linked] = smoothed(embeddings[linked], graph, SHARE)

    expected = by_definition(rows.tolist(), others.tolist(), embeddings, SHARE)
    np.testing.assert_allclose(embeddings_after, expected, rtol=1e-5, atol=1e-6)


def tables_of(model) -> dict[str, np.ndarray]:
    return {name: layer.get_weights()[0] for name, layer in layers_of(model).items()}


def layers_of(model):
    return {one.name: one for one in model.submodules if one.name in ("user_id", "item_id")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Edges (user, item) 0-0, 0-1, 1-1; a dislike 1-2 and a validation event 1-0 make none."""
    config = tiny_world.config(graph_smoothing=SHARE)
    users, items = ["u0", "u1"], ["i0", "i1", "i2"]

    def example(user: int, item: int, label: int = 1) -> Example:
        return Example(users[user], items[item], {"user_id": 2 + user}, label=label)

    folder = write_prepared_folder(
        tmp_path_factory.mktemp("data") / "prepared",
        config,
        vocabularies={"user_id": users, "item_id": items},
        candidates={name: {"item_id": 2 + row} for row, name in enumerate(items)},
        examples={
            "train": [example(0, 0), example(0, 1), example(0, 1), example(1, 1), example(1, 2, 0)],
            "validation": [example(1, 0)],
        },
    )
    return PreparedData(folder, config)


def smooth(data: PreparedData, *, epoch: int, rate: float = 1.0):
    """The tables before and after the beginning of an epoch, at a share of the learning rate."""
    model = build_model(data)
    model.compile(keras.optimizers.SGD(rate * data.config.training.learning_rate))
    before = tables_of(model)
    callback = GraphSmoothing(data.config, data.examples_to_train(), data.corpus())
    callback.set_model(model)
    callback.on_epoch_begin(epoch)
    return before, tables_of(model)


def test_both_tables_are_smoothed_over_the_positives_of_train(data):
    before, after = smooth(data, epoch=1)

    users = by_definition([2, 2, 3], [0, 1, 1], before["user_id"], SHARE)
    items = by_definition([2, 3, 3], [0, 0, 1], before["item_id"], SHARE)
    np.testing.assert_allclose(after["user_id"], users, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after["item_id"], items, rtol=1e-5, atol=1e-7)
    # Missing and unknown ids and the item that nobody liked have no edge.
    np.testing.assert_array_equal(after["item_id"][[0, 1, 4]], before["item_id"][[0, 1, 4]])


def test_a_refit_smooths_over_the_positives_of_validation_too(data):
    before, after = smooth(data.with_validation_in_training(), epoch=1)

    items = by_definition([2, 3, 3, 2], [0, 0, 1, 1], before["item_id"], SHARE)
    np.testing.assert_allclose(after["item_id"], items, rtol=1e-5, atol=1e-7)


def test_the_share_falls_with_the_learning_rate(data):
    before, after = smooth(data, epoch=1, rate=0.25)

    users = by_definition([2, 2, 3], [0, 1, 1], before["user_id"], 0.25 * SHARE)
    np.testing.assert_allclose(after["user_id"], users, rtol=1e-5, atol=1e-7)


def test_the_share_is_the_same_under_a_distribution_strategy(data):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        before, after = smooth(data, epoch=1, rate=0.25)

    users = by_definition([2, 2, 3], [0, 1, 1], before["user_id"], 0.25 * SHARE)
    np.testing.assert_allclose(after["user_id"], users, rtol=1e-5, atol=1e-7)


def test_nothing_is_smoothed_before_the_first_epoch(data):
    before, after = smooth(data, epoch=0)

    for name, table in before.items():
        np.testing.assert_array_equal(after[name], table)


def test_in_noisy_groups_smoothing_brings_unseen_pairs_of_a_group_together():
    """Four groups of 30 users and 30 items, of which each user has had five; vectors with noise."""
    draw = np.random.default_rng(8)
    groups, size, dim = 4, 30, 16
    group_of = np.repeat(np.arange(groups), size)
    centres = draw.normal(size=[groups, dim])
    users, items = centres[group_of] + 2.0 * draw.normal(size=[2, groups * size, dim])
    had = [
        (user, size * group_of[user] + item)
        for user in range(groups * size)
        for item in draw.choice(size, 5, replace=False)
    ]
    edges = np.transpose(had)
    is_unseen = np.full([groups * size, groups * size], True)
    is_unseen[*edges] = False
    is_alike = group_of[:, np.newaxis] == group_of

    def share_in_order(users, items):
        """How often a pair of a group scores above a pair of two groups."""
        lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in (users, items)]
        cosines = (users / lengths[0]) @ (items / lengths[1]).T
        alike, others = cosines[is_alike & is_unseen], cosines[~is_alike]
        return np.searchsorted(np.sort(others), alike).mean() / len(others)

    linked_users, of_users = normalized_graph(*edges)
    linked_items, of_items = normalized_graph(*edges[::-1])
    assert len(linked_users) == len(linked_items) == groups * size
    users_after, items_after = smoothed(users, of_users, 0.5), smoothed(items, of_items, 0.5)

    assert share_in_order(users, items) < 0.75
    assert share_in_order(users_after, items_after) > 0.9


def test_smoothing_needs_an_id():
    text = """
    columns: {query_id: user_id, candidate_id: item_id}
    features: {query: {age: {kind: number}}, candidate: {genre: {kind: categorical}}}
    training: {graph_smoothing: 0.4}
    """
    with pytest.raises(UsageError, match="graph_smoothing.*needs a feature of kind id"):
        parse_config(text, "config")


def test_a_model_of_the_users_own_names_its_table_like_the_feature(data):
    model = build_model(data)
    model.compile(keras.optimizers.SGD())
    layers_of(model)["item_id"]._name = "items"
    callback = GraphSmoothing(data.config, data.examples_to_train(), data.corpus())
    callback.set_model(model)

    with pytest.raises(UserError, match="no keras.layers.Embedding named 'item_id'"):
        callback.on_epoch_begin(1)

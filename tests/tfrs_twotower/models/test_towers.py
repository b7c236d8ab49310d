"""The towers that a config describes."""

import numpy as np
import pytest

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.towers import (
    CandidateTower,
    QueryTower,
    ResumableDropout,
    embedding_tables,
)
from tfrs_twotower.schema import Config, parse_config

NUM_ROWS = {"user": 12, "item": 9, "genre": 7}


def config(towers: str = "{embedding_dim: 6}", training: str = "{seed: 4}") -> Config:
    return parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}, recent: {kind: history, length: 3}}\n"
        "  context: {moment: {kind: timestamp}}\n"
        "  candidate: {item: {kind: id}, genre: {kind: categorical}}\n"
        f"towers: {towers}\n"
        f"training: {training}",
        "test.yaml",
    )


def ids_only(towers: str) -> Config:
    return parse_config(
        "columns: {timestamp: ts}\n"
        "features: {query: {user: {kind: id}}, candidate: {item: {kind: id}}}\n"
        f"towers: {towers}",
        "test.yaml",
    )


QUERIES = {
    "user": tf.constant([2, 3, 4, 11]),
    "recent": tf.constant([[2, 3, 0], [0, 0, 0], [8, 0, 0], [4, 5, 6]]),
    "moment": tf.constant([[1, 1], [24, 7], [0, 0], [13, 3]]),
}
CANDIDATES = {"item": tf.constant([2, 3, 8]), "genre": tf.constant([0, 6, 1])}


def query_tower(config: Config) -> QueryTower:
    return QueryTower(config, embedding_tables(config, NUM_ROWS), {})


def candidate_tower(config: Config) -> CandidateTower:
    return CandidateTower(config, embedding_tables(config, NUM_ROWS), {})


def test_both_towers_end_in_vectors_of_length_one_and_of_the_same_width():
    asked = config("{embedding_dim: 6, query: {hidden_units: [16]}}")

    for embeddings in (query_tower(asked)(QUERIES), candidate_tower(asked)(CANDIDATES)):
        assert embeddings.shape[1] == 6
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)


def test_hidden_layers_are_as_wide_as_the_config_says():
    tower = query_tower(config("{embedding_dim: 6, query: {hidden_units: [16, 10]}}"))
    tower(QUERIES)

    kernels = [v.shape.as_list() for v in tower.trainable_variables if "kernel" in v.name]

    # A user of 6, a history of 6 and two parts of a moment of 8 each, side by side.
    assert sorted(kernels) == sorted([[6 + 6 + 2 * 8, 16], [16, 10], [10, 6]])


def test_cross_layers_multiply_by_the_features_and_end_in_the_output_without_hidden_layers():
    """DCN-V2 (Wang et al. 2021), equation 1: x' = x0 * (W x + b) + x."""
    tower = query_tower(ids_only("{embedding_dim: 6, query: {cross_layers: 2}}"))
    tower({"user": tf.constant([2])})
    draw = np.random.default_rng(0)
    for variable in tower.trainable_variables:
        variable.assign(draw.normal(size=variable.shape))
    values = [variable.numpy() for variable in tower.trainable_variables]
    table, (first, first_bias, second, second_bias), output = values[0], values[1:-1], values[-1]

    start = table[[2, 5]]
    once = start * (start @ first + first_bias) + start
    twice = start * (once @ second + second_bias) + once
    found = tower.raw({"user": tf.constant([2, 5])}, training=False)
    np.testing.assert_allclose(found, twice @ output, rtol=1e-4, atol=1e-4)


def test_a_single_id_of_the_right_width_is_matrix_factorisation():
    tower = query_tower(ids_only("{embedding_dim: 6}"))
    tower({"user": tf.constant([2])})

    assert [variable.shape.as_list() for variable in tower.trainable_variables] == [[12, 6]]


def test_a_single_id_of_another_width_is_brought_to_that_of_the_towers():
    asked = parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id, embedding_dim: 4}}\n"
        "  candidate: {item: {kind: id}}\n"
        "towers: {embedding_dim: 6}",
        "test.yaml",
    )

    assert query_tower(asked)({"user": tf.constant([2, 5])}).shape == (2, 6)


def test_a_history_and_the_candidate_tower_share_the_candidates_table():
    asked = config()
    tables = embedding_tables(asked, NUM_ROWS)

    assert tables["recent"] is tables["item"]
    assert tables["item"].input_dim == 9


def test_training_a_history_moves_the_candidates_it_holds():
    asked = config()
    tables = embedding_tables(asked, NUM_ROWS)
    queries, candidates = QueryTower(asked, tables, {}), CandidateTower(asked, tables, {})
    candidates(CANDIDATES)

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(queries(QUERIES)[:, 0])
    gradient = tf.convert_to_tensor(tape.gradient(loss, tables["item"].embeddings))

    # The histories hold the rows 2, 3, 4, 5, 6 and 8.
    moved = np.flatnonzero(np.abs(gradient.numpy()).sum(axis=1)).tolist()
    assert moved == [2, 3, 4, 5, 6, 8]


def test_features_of_one_tower_do_not_share_their_first_values():
    tables = embedding_tables(config(), {"user": 9, "item": 9, "genre": 9})
    for table in tables.values():
        table.build(None)

    users, items = tables["user"].get_weights()[0], tables["item"].get_weights()[0]

    assert not np.allclose(users[2:], items[2:])


@pytest.mark.parametrize("tower", [query_tower, candidate_tower], ids=["query", "candidate"])
def test_first_weights_are_decided_by_the_seed_alone(tower):
    towers = "{embedding_dim: 6, query: {hidden_units: [5]}, candidate: {hidden_units: [5]}}"
    inputs = QUERIES if tower is query_tower else CANDIDATES

    first, again, other = (
        tower(config(towers, f"{{seed: {seed}}}"))(inputs).numpy() for seed in (4, 4, 5)
    )

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_hidden_layers_of_equal_shape_start_different():
    tower = query_tower(config("{embedding_dim: 6, query: {hidden_units: [28, 28]}}"))
    tower(QUERIES)

    first, second = (v.numpy() for v in tower.trainable_variables if v.shape == (28, 28))

    assert not np.allclose(first, second)


def test_the_towers_start_different_where_they_have_the_same_shape():
    asked = config("{embedding_dim: 6, query: {hidden_units: [7]}, candidate: {hidden_units: [7]}}")
    queries, candidates = query_tower(asked), candidate_tower(asked)
    queries(QUERIES)
    candidates(CANDIDATES)

    last = [
        next(v.numpy() for v in tower.trainable_variables if v.shape == (7, 6))
        for tower in (queries, candidates)
    ]

    assert not np.allclose(*last)


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_activations_of_the_config_are_those_of_the_hidden_layers(activation):
    hidden = f"{{hidden_units: [5], activation: {activation}}}"
    tower = query_tower(config(f"{{embedding_dim: 6, query: {hidden}}}"))
    tower(QUERIES)

    layers = [layer for layer in tower._flatten_layers() if hasattr(layer, "activation")]

    assert activation in {layer.activation.__name__ for layer in layers}


def test_an_unknown_user_without_a_past_has_a_finite_embedding():
    """Nothing is known: the vector may be zero, but never NaN."""
    asked = ids_only("{embedding_dim: 6}")

    embeddings = query_tower(asked)({"user": tf.constant([0, 1])}).numpy()

    assert np.isfinite(embeddings).all()


def test_an_unknown_user_that_was_never_trained_has_no_direction():
    """Every candidate scores 0, and not by chance one more than another."""
    asked = ids_only("{embedding_dim: 6}")

    assert not query_tower(asked)({"user": tf.constant([0, 1])}).numpy().any()


LONE_HISTORY = """
columns: {{timestamp: ts}}
features:
  query: {{recent: {{kind: history, length: 3, missing: indicator, encoder: {encoder}}}}}
  candidate: {{item: {{kind: id}}}}
towers: {{embedding_dim: 16}}
"""
STARTING_AT_ZERO = {
    "an unknown id": (ids_only("{embedding_dim: 16}"), {"user": [1]}),
    "no past": (parse_config(LONE_HISTORY.format(encoder="mean"), "test"), {"recent": [[0, 0, 0]]}),
    "no past, read in order": (
        parse_config(LONE_HISTORY.format(encoder="gru"), "test"),
        {"recent": [[0, 0, 0]]},
    ),
}


@pytest.mark.parametrize(("asked", "inputs"), STARTING_AT_ZERO.values(), ids=STARTING_AT_ZERO)
def test_what_starts_at_zero_learns_in_a_tower_of_nothing_else(asked, inputs):
    """Noisy positives about a target: a hundred steps of Adam turn the embedding to it."""
    tower = query_tower(asked)
    encoded = {name: tf.constant(rows) for name, rows in inputs.items()}
    tower(encoded)
    draw = np.random.default_rng(1)
    target = draw.normal(size=16) / 4.0
    optimizer = keras.optimizers.Adam(0.003)

    for _ in range(100):
        positive = tf.constant(target + draw.normal(size=16) / 4.0, tf.float32)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(tower(encoded) * positive)
        optimizer.apply_gradients(
            (gradient, weight)
            for gradient, weight in zip(
                tape.gradient(loss, tower.trainable_variables),
                tower.trainable_variables,
                strict=True,
            )
            if gradient is not None
        )

    found = tower(encoded).numpy()[0]
    assert np.linalg.norm(found) == pytest.approx(1.0, rel=1e-5)
    assert found @ target / np.linalg.norm(target) > 0.85


# --- dropout --------------------------------------------------------------------------------


def test_dropout_zeroes_its_share_and_scales_the_others_up():
    layer = ResumableDropout(0.25, seed=3)

    outputs = layer(tf.ones([200, 100]), training=True).numpy()

    # Standard error of the share: sqrt(0.25 * 0.75 / 20000) = 0.003.
    assert (outputs == 0).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(outputs[outputs != 0], 1 / 0.75, rtol=1e-6)


def test_dropout_leaves_inputs_alone_outside_training():
    inputs = tf.random.stateless_uniform([3, 4], [0, 0])

    np.testing.assert_array_equal(ResumableDropout(0.5, seed=3)(inputs, training=False), inputs)


def test_dropout_is_another_at_each_step_and_the_same_after_a_restore(tmp_path):
    layer, inputs = ResumableDropout(0.5, seed=3), tf.ones([4, 8])
    step = tf.function(lambda: layer(inputs, training=True))
    first = step().numpy()
    path = tf.train.Checkpoint(layer=layer).write(str(tmp_path / "checkpoint"))
    second = step().numpy()

    other = ResumableDropout(0.5, seed=99)
    tf.train.Checkpoint(layer=other).read(path).assert_consumed()

    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(other(inputs, training=True), second)


def test_dropout_of_a_tower_is_active_in_training_only():
    asked = config("{embedding_dim: 6, query: {hidden_units: [16], dropout: 0.5}}")
    tower = query_tower(asked)

    served, again = tower(QUERIES).numpy(), tower(QUERIES, training=False).numpy()
    trained = tower(QUERIES, training=True).numpy()

    np.testing.assert_array_equal(served, again)
    assert not np.allclose(served, trained)


def test_input_dropout_hides_entries_of_a_lone_ids_embedding_in_training_only():
    wide = "{embedding_dim: 600, query: {input_dropout: 0.25}}"
    asked = ids_only(wide)
    tower, users = query_tower(asked), {"user": tf.constant([2, 3, 4, 11])}

    served, trained = tower.raw(users).numpy(), tower.raw(users, training=True).numpy()

    is_hidden = trained == 0
    # Standard error of the share: sqrt(0.25 * 0.75 / 2400) = 0.009.
    assert is_hidden.mean() == pytest.approx(0.25, abs=0.05)
    np.testing.assert_allclose(trained[~is_hidden], served[~is_hidden] / 0.75, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(tower(users, training=True), axis=1), 1, rtol=1e-5)


def test_input_dropout_of_one_tower_leaves_the_other_alone():
    asked = ids_only("{embedding_dim: 6, query: {input_dropout: 0.5}}")
    tower, items = candidate_tower(asked), {"item": tf.constant([2, 3, 8])}

    np.testing.assert_array_equal(tower(items, training=True), tower(items))

"""What the moment does to a score, mode by mode."""

import numpy as np
import pytest

from tfrs_twotower.keras import tf
from tfrs_twotower.models.context_modes import TrilinearQueryTower
from tfrs_twotower.models.scorers import ScoringLayer
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import Config, parse_config

NUM_ROWS = {"user": 9, "item": 11}
DIM = 6
QUERIES = {
    "user": tf.constant([2, 3, 8, 5]),
    "recent": tf.constant([[2, 3, 0], [9, 0, 0], [8, 4, 0], [4, 5, 6]]),
    "moment": tf.constant([[9, 1], [21, 7], [13, 2], [1, 3]]),
}
ITEMS = {"item": tf.constant([2, 3, 4, 5, 6, 7, 8, 9, 10])}


def config(towers: str, *, context: str = "moment: {kind: timestamp}") -> Config:
    is_scored = "scoring_layer" in towers and bool(context)
    return parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}, recent: {kind: history, length: 3}}\n"
        f"  context: {{{context}}}\n"
        "  candidate: {item: {kind: id}}\n"
        f"towers: {{embedding_dim: {DIM}, {towers}}}\n"
        f"loss: {{kind: {'bce' if is_scored else 'softmax'}}}\n"
        f"export: {{retrieval: {str(not is_scored).lower()}}}",
        "test.yaml",
    )


def model(towers: str, **more: str) -> TwoTowerModel:
    return TwoTowerModel.from_config(config(towers, **more), NUM_ROWS, {})


def scores(model: TwoTowerModel, queries: dict = QUERIES) -> np.ndarray:
    embeddings = model.query_tower(queries).numpy(), model.candidate_tower(ITEMS).numpy()
    return model.scorer.matrix(*embeddings)


def stirred(model: TwoTowerModel) -> TwoTowerModel:
    """With weights as if it had learned something."""
    draw = np.random.default_rng(5)
    for variable in model.trainable_variables:
        variable.assign_add(draw.normal(size=variable.shape, scale=0.3).astype(np.float32))
    return model


def at(hour_row: int) -> dict:
    return {**QUERIES, "moment": tf.tile([[hour_row, 2]], [4, 1])}


MODES = ("user_tower", "trilinear", "scoring_layer")


def test_without_context_every_mode_is_the_same():
    found = [scores(model(f"context_mode: {mode}", context="")) for mode in MODES]

    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_query_embedding_has_length_one_in_every_moment(mode):
    embeddings = stirred(model(f"context_mode: {mode}")).query_tower(QUERIES).numpy()

    assert embeddings.shape == (4, DIM)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES[:2])
def test_the_moment_changes_the_ranking(mode):
    trained = stirred(model(f"context_mode: {mode}"))

    morning, evening = (np.argsort(-scores(trained, at(row)), axis=1) for row in (9, 21))

    assert (morning != evening).any()


# --- trilinear ------------------------------------------------------------------------------


def test_trilinear_is_the_product_of_user_and_context_brought_to_length_one():
    trained = stirred(model("context_mode: trilinear"))
    tower = trained.query_tower
    assert isinstance(tower, TrilinearQueryTower)
    user, context = tower.user(QUERIES).numpy(), tower._context(QUERIES).numpy()

    product = user * context
    expected = product / np.linalg.norm(product, axis=1, keepdims=True)

    np.testing.assert_allclose(tower(QUERIES), expected, atol=1e-6)


def test_the_users_half_knows_no_moment_and_is_a_raw_vector():
    tower = stirred(model("context_mode: trilinear")).query_tower

    morning, evening = tower.user(at(9)).numpy(), tower.user(at(21)).numpy()

    np.testing.assert_array_equal(morning, evening)
    assert not np.allclose(np.linalg.norm(morning, axis=1), 1.0, atol=1e-2)


@pytest.mark.parametrize("mode", MODES[1:])
def test_halves_joined_later_score_like_the_whole(mode):
    trained = stirred(model(f"context_mode: {mode}"))
    kept = trained.query_tower.user(at(9))

    joined = trained.query_tower.join(kept, {"moment": QUERIES["moment"]})

    np.testing.assert_allclose(joined, trained.query_tower(QUERIES), atol=1e-6)


def test_an_untrained_moment_changes_little_and_an_unknown_one_nothing():
    """The context half starts at ones: what is not known of the moment multiplies by one."""
    untrained = model("context_mode: trilinear")
    unknown = {**QUERIES, "moment": tf.zeros([4, 2], tf.int32)}
    user = untrained.query_tower.user(QUERIES)

    joined = untrained.query_tower(unknown)

    np.testing.assert_allclose(joined, tf.math.l2_normalize(user, axis=-1), atol=1e-6)


# --- scoring layer --------------------------------------------------------------------------


def test_linear_scores_are_a_sum_and_rank_alike_for_everybody_and_every_moment():
    trained = stirred(model("context_mode: scoring_layer"))

    found = np.concatenate([scores(trained, at(row)) for row in (9, 21)])

    orders = np.argsort(-found, axis=1)
    assert (orders == orders[0]).all()
    # The difference of two candidates is the same whoever asks.
    np.testing.assert_allclose(
        found[:, :1] - found, np.tile(found[0, 0] - found[0], [8, 1]), atol=1e-5
    )


def test_a_softmax_over_linear_scores_gives_the_query_no_gradient():
    trained = stirred(model("context_mode: scoring_layer"))

    with tf.GradientTape() as tape:
        queries = trained.query_tower(QUERIES)
        candidates = tf.tile(trained.candidate_tower(ITEMS)[tf.newaxis], [4, 1, 1])
        logits = trained.scorer(queries, candidates)
        loss = tf.reduce_sum(tf.reduce_logsumexp(logits, axis=1) - logits[:, 0])
    gradient = tape.gradient(loss, queries)

    np.testing.assert_allclose(gradient, np.zeros([4, 2 * DIM]), atol=1e-5)


def test_hidden_layers_make_the_moment_and_the_user_matter():
    trained = stirred(model("context_mode: scoring_layer, scoring_hidden_units: [8, 5]"))

    orders = np.argsort(-np.concatenate([scores(trained, at(row)) for row in (9, 21)]), axis=1)

    assert (orders != orders[0]).any()


def test_the_linear_layer_is_one_dense_layer_over_all_three_vectors():
    layer = ScoringLayer([], seed=3)
    queries, candidates = (tf.random.stateless_normal([2, n], [n, 0]) for n in (8, 4))
    layer(queries, candidates[:, tf.newaxis])
    weights = {tuple(weight.shape): weight for weight in layer.get_weights()}

    found = layer(queries, candidates[:, tf.newaxis])

    expected = queries @ weights[8, 1] + candidates @ weights[4, 1] + weights[1,]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("hidden", [[], [7], [7, 3]], ids=str)
def test_scores_of_the_whole_corpus_are_those_of_the_pairs(hidden, monkeypatch):
    layer = ScoringLayer(hidden, seed=3)
    queries = np.random.default_rng(1).normal(size=[5, 8]).astype(np.float32)
    candidates = np.random.default_rng(2).normal(size=[6, 4]).astype(np.float32)
    pairs = layer(tf.constant(queries), tf.tile(candidates[np.newaxis], [5, 1, 1]))

    monkeypatch.setattr("tfrs_twotower.models.scorers.CHUNK_ELEMENTS", 6 * max(hidden or [1]) * 2)
    matrix = layer.matrix(queries, candidates)

    np.testing.assert_allclose(matrix, pairs, atol=1e-5)


def test_the_moment_goes_through_the_layers_of_its_tower():
    tower = model("context_mode: trilinear, context: {hidden_units: [13]}").query_tower

    shapes = [variable.shape.as_list() for variable in tower.trainable_variables]

    assert [16, 13] in shapes  # Two parts of a moment of 8 each.

"""Encoders that read a history in its order."""

import numpy as np
import pytest

from tfrs_twotower.features.dense import DenseFeatures
from tfrs_twotower.features.history_encoders import (
    SharedHistories,
    ShortConvolution,
    history_encoder,
)
from tfrs_twotower.keras import tf
from tfrs_twotower.schema.features import History

WIDTH, LENGTH = 4, 5
GRU = History(length=LENGTH, encoder="gru")
ATTENTION = History(length=LENGTH, encoder="attention", blocks=2, heads=2)
ORDERED = [pytest.param(GRU, id="gru"), pytest.param(ATTENTION, id="attention")]


def vectors(seed: int = 3) -> tf.Tensor:
    return tf.random.stateless_normal([2, LENGTH, WIDTH], [seed, 0])


def layer(feature: History, seed: int = 1) -> DenseFeatures:
    table = tf.keras.layers.Embedding(9, WIDTH)
    table.build(None)
    table.set_weights([np.random.default_rng(7).normal(size=[9, WIDTH]).astype(np.float32)])
    features = DenseFeatures({"past": feature}, {"past": table}, {}, seed=seed, name="features")
    features({"past": tf.constant([[2] * feature.length])})
    return with_convolutions(features)


def encoder_of(feature: History) -> tf.keras.layers.Layer:
    encoder = history_encoder(feature, WIDTH, seed=1, name="it")
    encoder(vectors())
    return with_convolutions(encoder)


def with_convolutions(whole: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    """The layer with convolutions as if trained: they start at zero."""
    generator = np.random.default_rng(5)
    for part in whole.submodules:
        if isinstance(part, ShortConvolution):
            part.set_weights([generator.normal(size=one.shape) for one in part.get_weights()])
    return whole


@pytest.mark.parametrize("feature", ORDERED)
def test_a_place_knows_nothing_of_later_ones(feature):
    encoder = encoder_of(feature)
    early, late = vectors(), vectors(8)
    mixed = tf.concat([early[:, :3], late[:, 3:]], axis=1)

    states, other = encoder(early), encoder(mixed)

    np.testing.assert_allclose(other[:, :3], states[:, :3], atol=1e-6)
    assert not np.allclose(other[:, 3:], states[:, 3:])


@pytest.mark.parametrize("feature", ORDERED)
def test_every_earlier_place_is_heard(feature):
    encoder = encoder_of(feature)
    inputs = tf.Variable(vectors())

    with tf.GradientTape() as tape:
        last = tf.reduce_sum(encoder(inputs)[:, -1, 0])
    heard = np.abs(tape.gradient(last, inputs).numpy()).sum(axis=2)

    assert (heard > 1e-8).all()


@pytest.mark.parametrize("feature", ORDERED)
def test_the_order_of_a_past_matters(feature):
    features = layer(feature)

    one, other = features({"past": tf.constant([[2, 3, 4, 0, 0], [4, 3, 2, 0, 0]])}).numpy()

    assert not np.allclose(one, other)


def test_a_mean_does_not_hear_the_order():
    features = layer(History(length=LENGTH))

    one, other = features({"past": tf.constant([[2, 3, 4, 0, 0], [4, 3, 2, 0, 0]])}).numpy()

    np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("feature", ORDERED)
def test_padding_says_nothing(feature):
    features = layer(feature)
    short = feature.model_copy(update={"length": 3})

    padded = features({"past": tf.constant([[2, 3, 4, 0, 0]])})
    bare = layer(short)
    bare({"past": tf.constant([[2, 3, 4]])})
    weights = [
        value[:3] if value.shape == (LENGTH, WIDTH) else value for value in features.get_weights()
    ]
    bare.set_weights(weights)

    np.testing.assert_allclose(bare({"past": tf.constant([[2, 3, 4]])}), padded, atol=1e-6)


@pytest.mark.parametrize("feature", ORDERED)
def test_places_of_one_pass_are_histories_cut_short(feature):
    """One pass gives at each place what serving gives for the history up to there."""
    features = layer(feature)
    past = [2, 3, 4, 5, 6]
    cut = [past[: 1 + place] + [0] * (LENGTH - 1 - place) for place in range(LENGTH)]

    one_by_one = features({"past": tf.constant(cut)})
    places = tf.constant([LENGTH + place for place in range(LENGTH)])
    at_once = features({"past": SharedHistories((tf.constant([[8, 8, 8, 8, 8], past]),), places)})

    np.testing.assert_allclose(at_once, one_by_one, atol=1e-5)


@pytest.mark.parametrize("feature", ORDERED)
def test_matrices_of_several_widths_give_what_a_padded_one_gives(feature):
    features = layer(feature)
    padded = tf.constant([[2, 3, 0, 0, 0], [4, 5, 6, 7, 8], [6, 0, 0, 0, 0]])
    narrow, wide = tf.constant([[2, 3], [6, 0]]), tf.constant([[4, 5, 6, 7, 8]])
    none = tf.zeros([0, 3], tf.int32)

    (at_once, gradients), (by_width, of_widths) = (
        vectors_and_gradients(features, histories)
        for histories in (
            SharedHistories((padded,), tf.constant([1, 9, 10, -1])),
            SharedHistories((narrow, none, wide), tf.constant([1, 8, 2, -1])),
        )
    )

    np.testing.assert_allclose(by_width, at_once, atol=1e-6)
    for ours, expected in zip(of_widths, gradients, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def vectors_and_gradients(
    features: DenseFeatures, histories: SharedHistories
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    with tf.GradientTape() as tape:
        encoded = features({"past": histories})
        total = tf.reduce_sum(encoded**2 * tf.range(1.0, 1.0 + WIDTH))
    gradients = tape.gradient(total, features.trainable_variables)
    return encoded, [tf.convert_to_tensor(one) for one in gradients]


@pytest.mark.parametrize("feature", ORDERED)
def test_an_empty_past_is_the_zero_vector(feature):
    features = layer(feature)

    served = features({"past": tf.zeros([2, LENGTH], tf.int64)})
    trained = features(
        {"past": SharedHistories((tf.constant([[2, 3, 0, 0, 0]]),), tf.constant([-1]))}
    )

    assert not np.any(served)
    assert not np.any(trained)


def test_an_empty_past_with_an_indicator_has_a_vector_that_learns():
    features = layer(GRU.model_copy(update={"missing": "indicator"}))

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(features({"past": tf.zeros([2, LENGTH], tf.int64)}))
    [nothing] = [v for v in features.trainable_variables if "nothing" in v.name]

    np.testing.assert_array_equal(tape.gradient(total, nothing), [2.0] * WIDTH)


def test_a_gru_is_as_wide_as_its_feature_says():
    features = layer(GRU.model_copy(update={"embedding_dim": 7}))

    assert features({"past": tf.constant([[2, 3, 0, 0, 0]])}).shape == (1, 7)


@pytest.mark.parametrize("feature", ORDERED)
def test_dropout_is_active_in_training_only(feature):
    features = layer(feature.model_copy(update={"dropout": 0.5}))
    past = {"past": tf.constant([[2, 3, 4, 5, 6]])}

    served, again, trained = (
        features(past, training=training).numpy() for training in (False, False, True)
    )

    np.testing.assert_array_equal(served, again)
    assert not np.allclose(served, trained)


@pytest.mark.parametrize(("feature", "drops"), [(GRU, False), (ATTENTION, True)])
def test_attention_alone_drops_out_where_the_config_is_silent(feature, drops):
    features = layer(feature)
    past = {"past": tf.constant([[2, 3, 4, 5, 6]])}

    served, trained = (features(past, training=training).numpy() for training in (False, True))

    assert np.allclose(served, trained) is not drops


@pytest.mark.parametrize("feature", ORDERED)
def test_first_weights_are_decided_by_the_seed_alone(feature):
    past = {"past": tf.constant([[2, 3, 4, 5, 6]])}

    first, again, other = (layer(feature, seed)(past).numpy() for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_queries_keys_and_values_start_different():
    features = layer(ATTENTION)
    features({"past": tf.constant([[2, 3, 4, 5, 6]])})

    kernels = [
        value.numpy() for value in features.trainable_variables if value.shape == (WIDTH, WIDTH)
    ]

    # Two blocks of eight square layers.
    assert len({kernel.tobytes() for kernel in kernels}) == 16


def test_a_convolution_sums_the_last_places_channel_by_channel():
    convolution = ShortConvolution(3)
    states = tf.constant([[[1.0, 2], [10, 20], [100, 200], [1000, 2000]]])
    convolution(states)
    # Two places back, one place back, the place itself; the second channel reads one place back.
    convolution.set_weights([np.array([[[3.0], [0]], [[2], [1]], [[1], [0]]])])

    np.testing.assert_array_equal(convolution(states), [[[1, 0], [12, 2], [123, 20], [1230, 200]]])


def test_convolutions_start_without_a_say():
    with_it, without = (
        history_encoder(ATTENTION.model_copy(update=settings), WIDTH, seed=1, name="it")
        for settings in ({"convolution": 3}, {"convolution": 0})
    )

    np.testing.assert_array_equal(with_it(vectors()), without(vectors()))
    shapes = [variable.shape for variable in with_it.trainable_variables]
    assert shapes.count((3, WIDTH, 1)) == 2  # One a block.
    assert len(shapes) == len(without.trainable_variables) + 2


def test_a_convolution_reaches_over_eight_candidates_where_the_config_is_silent():
    encoder = history_encoder(ATTENTION, WIDTH, seed=1, name="it")
    encoder(vectors())

    assert [8, WIDTH, 1] in [variable.shape.as_list() for variable in encoder.trainable_variables]


def test_what_a_block_adds_goes_through_its_gates():
    encoder = encoder_of(ATTENTION.model_copy(update={"convolution": 0}))
    gates = [
        part
        for part in encoder.submodules
        if isinstance(part, tf.keras.layers.Dense)
        and part.activation is tf.keras.activations.sigmoid
    ]
    open_a_little = encoder(vectors()).numpy()
    for gate in gates:
        gate.set_weights([np.zeros([WIDTH, WIDTH]), np.full([WIDTH], -100.0)])
    closed = encoder(vectors()).numpy()

    assert len(gates) == 4  # Two a block.
    assert not np.allclose(open_a_little, closed, atol=1e-3)
    [positions] = [v for v in encoder.trainable_variables if v.shape == (LENGTH, WIDTH)]
    states = WIDTH**0.5 * vectors() + positions
    mean, deviation = states.numpy().mean(2, keepdims=True), states.numpy().std(2, keepdims=True)
    np.testing.assert_allclose(closed, (states - mean) / deviation, atol=1e-4)


def test_gates_start_nearly_closed():
    encoder = history_encoder(ATTENTION, WIDTH, seed=1, name="it")
    encoder(vectors())

    biases = [v.numpy() for v in encoder.trainable_variables if v.shape == (WIDTH,)]
    assert sum((bias == -2).all() for bias in biases) == 4

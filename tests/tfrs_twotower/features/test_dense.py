"""Encoded features become dense vectors: pooling, normalisation, and each missing-value rule."""

import math

import numpy as np
import pytest

from tfrs_twotower.features.dense import DenseFeatures, UntrainedRowsAtZero, embedding_table
from tfrs_twotower.keras import tf
from tfrs_twotower.schema.features import (
    Boolean,
    Categorical,
    Feature,
    Fill,
    History,
    Id,
    MultiCategorical,
    Number,
    Text,
    Timestamp,
    Vector,
)
from tfrs_twotower.schema.prepared import NumberStatistics

NAN = float("nan")
# Row 0 is not zero on purpose: it may be trained.
TABLE = np.array([[9.0, -9.0], [1.0, 10.0], [2.0, 20.0], [4.0, 60.0]], np.float32)


def statistics(**values: float) -> NumberStatistics:
    given = {"mean": 0.0, "variance": 1.0, "log_mean": 0.0, "log_variance": 1.0} | values
    return NumberStatistics(num_values=10, quantiles=(0.0,) * 11, **given)


def dense(feature: Feature, encoded: object, of_number: NumberStatistics | None = None) -> list:
    """The dense vectors of one feature; embedded kinds read `TABLE`."""
    table = tf.keras.layers.Embedding(*TABLE.shape)
    table.build(None)
    table.set_weights([TABLE])
    layer = DenseFeatures(
        {"it": feature}, {"it": table}, {"it": of_number or statistics()}, seed=1, name="features"
    )
    is_number = isinstance(feature, Number | Boolean | Vector)
    values = tf.constant(encoded, tf.float32 if is_number else tf.int64)

    eagerly = layer({"it": values})

    in_graph = tf.function(lambda values: layer({"it": values}))(values)
    np.testing.assert_array_equal(in_graph, eagerly)
    assert eagerly.dtype == tf.float32
    return eagerly.numpy().tolist()


# --- embedded kinds -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Id, Categorical])
def test_a_row_is_looked_up(kind):
    assert dense(kind(), [3, 1]) == [[4.0, 60.0], [1.0, 10.0]]


@pytest.mark.parametrize("kind", [Id, Categorical])
def test_a_missing_row_is_the_zero_vector_whatever_the_table_holds(kind):
    assert dense(kind(missing="zero"), [0, 2]) == [[0.0, 0.0], [2.0, 20.0]]


@pytest.mark.parametrize("kind", [Id, Categorical])
def test_a_missing_row_with_an_indicator_has_a_vector_of_its_own(kind):
    assert dense(kind(missing="indicator"), [0, 2]) == [[9.0, -9.0], [2.0, 20.0]]


POOLED = [
    pytest.param(MultiCategorical, id="multi"),
    pytest.param(Text, id="text"),
    pytest.param(History, id="history"),
]


@pytest.mark.parametrize("kind", POOLED)
def test_a_list_is_the_mean_of_its_rows_without_the_padding(kind):
    # (1 + 2 + 4) / 3 and (10 + 20 + 60) / 3; a row counts as often as it stands there.
    rows = [[1, 2, 3, 0], [3, 3, 1, 0], [2, 0, 0, 0]]

    assert dense(kind(), rows) == [
        pytest.approx([7 / 3, 30.0]),
        pytest.approx([3.0, 130 / 3]),
        [2.0, 20.0],
    ]


@pytest.mark.parametrize("kind", POOLED)
def test_an_empty_list_is_the_zero_vector(kind):
    assert dense(kind(missing="zero"), [[0, 0], [0, 3]]) == [[0.0, 0.0], [4.0, 60.0]]


@pytest.mark.parametrize("kind", POOLED)
def test_an_empty_list_with_an_indicator_has_a_vector_of_its_own(kind):
    # Only the empty list reads row 0: padding beside a token does not.
    assert dense(kind(missing="indicator"), [[0, 0], [0, 3]]) == [[9.0, -9.0], [4.0, 60.0]]


@pytest.mark.parametrize("kind", [MultiCategorical, Text])
def test_a_list_with_a_fill_rule_is_pooled_like_any_other(kind):
    assert dense(kind(missing=Fill(fill="x")), [[1, 3]]) == [[2.5, 35.0]]


# --- numbers --------------------------------------------------------------------------------


def test_a_number_is_standardised_by_the_statistics_of_train():
    feature = Number(missing="zero")

    values = dense(feature, [7.0, 1.0], statistics(mean=3.0, variance=4.0, log_mean=99.0))

    assert values == [[2.0], [-1.0]]  # (7 - 3) / 2, (1 - 3) / 2


def test_a_number_on_a_logarithmic_scale_is_standardised_there():
    feature = Number(normalize="log", missing="zero")
    numbers = [math.e - 1, 0.0, 1 - math.e]  # sign(x) * log(1 + |x|) = 1, 0, -1

    values = dense(feature, numbers, statistics(mean=99.0, log_mean=0.5, log_variance=0.25))

    assert values == [pytest.approx([1.0]), pytest.approx([-1.0]), pytest.approx([-3.0])]


def test_a_number_may_be_left_as_it_is():
    feature = Number(normalize="none", missing="zero")

    assert dense(feature, [7.0, -3.5], statistics(mean=3.0, variance=4.0)) == [[7.0], [-3.5]]


def test_a_number_that_never_varies_is_not_divided_by_zero():
    feature = Number(missing="zero")

    assert dense(feature, [3.0, 4.0], statistics(mean=3.0, variance=0.0)) == [[0.0], [1.0]]


@pytest.mark.parametrize("normalize", ["standard", "log", "none"])
def test_a_missing_number_is_zero_and_says_so_in_a_column_of_its_own(normalize):
    feature = Number(normalize=normalize, missing="indicator")

    (missing, there) = dense(feature, [NAN, 5.0], statistics(mean=2.0, log_mean=2.0))

    assert missing == [0.0, 1.0]
    assert there[0] != 0.0
    assert there[1] == 0.0


@pytest.mark.parametrize("missing", ["zero", Fill(fill=3.0)])
def test_other_rules_for_a_missing_number_need_no_column(missing):
    # Zero after normalisation is the mean.
    assert dense(Number(missing=missing), [NAN, 5.0], statistics(mean=2.0)) == [[0.0], [3.0]]


def test_a_truth_value_is_a_number_that_is_not_normalised():
    assert dense(Boolean(), [1.0, 0.0, NAN]) == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    assert dense(Boolean(missing="zero"), [1.0, 0.0, NAN]) == [[1.0], [0.0], [0.0]]


def test_a_missing_vector_is_zero_with_one_column_that_says_so():
    vectors = [[1.0, -2.0, 3.0], [NAN, NAN, NAN]]

    assert dense(Vector(dimension=3), vectors) == [[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]
    assert dense(Vector(dimension=3, missing="indicator"), vectors) == [
        [1.0, -2.0, 3.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]


def test_a_vector_of_which_a_part_is_missing_is_missing_whole():
    vectors = [[1.0, NAN, 3.0]]

    assert dense(Vector(dimension=3), vectors) == [[0.0, 0.0, 0.0]]
    assert dense(Vector(dimension=3, missing="indicator"), vectors) == [[0.0, 0.0, 0.0, 1.0]]


def test_missing_numbers_let_no_nan_into_the_gradients():
    """0 * NaN is NaN: a masked value must not be multiplied away."""
    features = {"price": Number(), "content": Vector(dimension=2), "new": Boolean()}
    layer = DenseFeatures(features, {}, {"price": statistics()}, seed=1, name="features")
    weight = tf.Variable(tf.ones([6, 1]))
    encoded = {
        "price": tf.constant([NAN, 1.0]),
        "content": tf.constant([[NAN, NAN], [1.0, 2.0]]),
        "new": tf.constant([1.0, NAN]),
    }

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.matmul(layer(encoded), weight[: layer(encoded).shape[1]]))

    assert np.isfinite(tape.gradient(total, weight).numpy()).all()


# --- moments --------------------------------------------------------------------------------


def moments(feature: Timestamp) -> DenseFeatures:
    return DenseFeatures({"moment": feature}, {}, {}, seed=1, name="features")


def test_each_part_of_a_moment_has_a_table_of_its_own():
    layer = moments(Timestamp(embedding_dim=3))

    layer({"moment": tf.constant([[1, 1]], tf.int64)})

    # 24 hours and 7 days of the week, each beside the row of the missing.
    shapes = {variable.name.split("/")[-2]: variable.shape for variable in layer.variables}
    assert shapes == {"moment_hour": (25, 3), "moment_weekday": (8, 3)}


def test_the_parts_of_a_moment_start_different():
    layer = moments(Timestamp())

    first = layer({"moment": tf.constant([[3, 3]], tf.int64)}).numpy()[0]

    assert not np.allclose(first[:8], first[8:])


def test_the_parts_of_a_moment_stand_side_by_side_in_their_order():
    layer = moments(Timestamp(parts=("weekday", "hour"), embedding_dim=2))
    encoded = tf.constant([[7, 24], [1, 3]], tf.int64)

    vectors = layer({"moment": encoded}).numpy()

    tables = {variable.name.split("/")[-2]: variable.numpy() for variable in layer.variables}
    weekday, hour = tables["moment_weekday"], tables["moment_hour"]
    np.testing.assert_array_equal(vectors[0], np.concatenate([weekday[7], hour[24]]))
    np.testing.assert_array_equal(vectors[1], np.concatenate([weekday[1], hour[3]]))


@pytest.mark.parametrize("missing", ["zero", "indicator"])
def test_no_moment_is_the_zero_vector_or_a_learned_one(missing):
    layer = moments(Timestamp(embedding_dim=2, missing=missing))
    nothing = {"moment": tf.constant([[0, 0]], tf.int64)}
    layer(nothing)
    for variable in layer.variables:
        variable.assign(tf.ones_like(variable))

    expected = 1.0 if missing == "indicator" else 0.0

    assert layer(nothing).numpy().tolist() == [[expected] * 4]


# --- together -------------------------------------------------------------------------------


def test_features_stand_side_by_side_in_the_order_of_the_config():
    table = tf.keras.layers.Embedding(*TABLE.shape)
    table.build(None)
    table.set_weights([TABLE])
    features = {"price": Number(missing="zero"), "colour": Categorical(), "new": Boolean()}
    layer = DenseFeatures(
        features, {"colour": table}, {"price": statistics(mean=1.0)}, seed=1, name="features"
    )

    vectors = layer(
        {
            "new": tf.constant([NAN]),
            "colour": tf.constant([2], tf.int64),
            "price": tf.constant([6.0]),
            "unasked": tf.constant([8.0]),
        }
    )

    assert vectors.numpy().tolist() == [[5.0, 2.0, 20.0, 0.0, 1.0]]


def test_features_that_share_a_table_read_the_same_rows():
    table = tf.keras.layers.Embedding(*TABLE.shape)
    features = {"item": Id(), "recent": History()}
    layer = DenseFeatures(features, {"item": table, "recent": table}, {}, seed=1, name="features")

    vectors = layer({"item": tf.constant([3]), "recent": tf.constant([[3, 0]])}).numpy()

    assert len(layer.variables) == 1
    np.testing.assert_array_equal(vectors[0, :2], vectors[0, 2:])


# --- tables ---------------------------------------------------------------------------------


def test_rows_that_may_never_see_a_gradient_start_at_zero_and_the_others_small():
    table = UntrainedRowsAtZero(3, seed=5)((200, 4)).numpy()

    assert not table[:3].any()
    assert table[3:].all()
    assert np.abs(table).max() <= 0.05
    assert np.abs(table[3:].mean()) < 0.01


def test_initial_rows_are_decided_by_the_seed_alone():
    first, again, other = (UntrainedRowsAtZero(1, seed)((9, 4)).numpy() for seed in (5, 5, 6))

    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first[1:], other[1:])


@pytest.mark.parametrize(
    ("feature", "num_zero_rows"),
    [
        pytest.param(Id(oov_buckets=3), 4, id="padding-and-three-buckets"),
        pytest.param(Categorical(), 2, id="padding-and-one-bucket"),
        pytest.param(Text(), 1, id="padding-alone"),  # each bucket of words is trained
    ],
)
def test_padding_and_unknown_rows_of_a_table_start_at_zero(feature, num_zero_rows):
    table = embedding_table(feature, 10, 6, name="table", seed=3)
    table.build(None)

    is_zero = ~table.get_weights()[0].any(axis=1)

    assert is_zero.tolist() == [True] * num_zero_rows + [False] * (10 - num_zero_rows)


@pytest.mark.parametrize(
    ("feature", "width"),
    [
        pytest.param(Id(), 6, id="an-id-is-as-wide-as-the-towers"),
        pytest.param(Id(embedding_dim=5), 5, id="or-as-it-says"),
        pytest.param(Categorical(), 8, id="content-is-narrow"),
        pytest.param(Text(embedding_dim=5), 5, id="content-as-it-says"),
    ],
)
def test_the_width_of_a_table(feature, width):
    assert embedding_table(feature, 10, 6, name="table", seed=3).output_dim == width

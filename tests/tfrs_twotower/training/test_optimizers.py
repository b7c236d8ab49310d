"""Optimizers that touch what has a gradient, and do not care for the scale of the loss."""

import numpy as np
import pytest

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema.training import Training
from tfrs_twotower.training.optimizers import KERAS_INTERNALS, RowSparseAdam, make_optimizer

RATE = 0.1


def sparse(rows, values, num_rows=5):
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows), tf.constant([num_rows, 2]))


def adam_by_hand(start, gradients):
    """Kingma and Ba, algorithm 1, with epsilon as they advise in section 2."""
    value, first, second = np.array(start), 0.0, 0.0
    for step, gradient in enumerate(np.asarray(gradients, float), 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        value = value - rate * first / (np.sqrt(second) + 1e-7)
    return value


def test_keras_still_has_what_the_optimizer_reads_of_its_inside():
    optimizer = RowSparseAdam(RATE)
    variables = [tf.Variable([1.0]), tf.Variable([2.0])]
    optimizer.build(variables)

    moved = [name for name in KERAS_INTERNALS if not hasattr(optimizer, name)]
    assert not moved, f"tf_keras {keras.__version__} moved {moved} of its Optimizer"
    places = [optimizer._index_dict[optimizer._var_key(variable)] for variable in variables]
    assert places == [0, 1], "Optimizer._index_dict no longer holds places by Optimizer._var_key"


def test_keras_still_has_the_reduction_that_training_sets():
    """Setting an attribute that Keras does not read would pass without a word."""
    assert isinstance(keras.Model.distribute_reduction_method, property)
    assert keras.Model().distribute_reduction_method == "auto"


def test_dense_gradients_get_plain_adam():
    variable = tf.Variable([1.0, -2.0])
    optimizer = RowSparseAdam(RATE)
    gradients = [[0.5, -0.1], [0.2, 0.3], [-1.0, 0.05]]

    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])

    np.testing.assert_allclose(variable, adam_by_hand([1.0, -2.0], gradients), rtol=1e-5)


def test_a_row_that_always_has_a_gradient_gets_plain_adam():
    variable = tf.Variable(tf.ones([5, 2]))
    optimizer = RowSparseAdam(RATE)
    gradients = [[0.5, -0.1], [0.2, 0.3], [-1.0, 0.05]]

    for gradient in gradients:
        optimizer.apply_gradients([(sparse([3], [gradient]), variable)])

    np.testing.assert_allclose(variable[3], adam_by_hand([1.0, 1.0], gradients), rtol=1e-5)


def test_rows_without_a_gradient_stay_where_they_are():
    """Plain Adam would move row 1 on in the second step, by the momentum of the first."""
    variable = tf.Variable(tf.ones([5, 2]))
    optimizer = RowSparseAdam(RATE)
    optimizer.apply_gradients([(sparse([1], [[0.5, -0.5]]), variable)])
    after_first = variable.numpy()

    optimizer.apply_gradients([(sparse([4], [[0.5, -0.5]]), variable)])

    np.testing.assert_array_equal(variable[:4], after_first[:4])
    assert not np.array_equal(variable[4], after_first[4])


def test_the_gradients_of_a_row_that_occurs_twice_are_added():
    twice, once = tf.Variable(tf.ones([5, 2])), tf.Variable(tf.ones([5, 2]))

    RowSparseAdam(RATE).apply_gradients(
        [(sparse([2, 0, 2], [[0.1, 0.2], [0.3, 0.3], [0.4, -0.1]]), twice)]
    )
    RowSparseAdam(RATE).apply_gradients([(sparse([0, 2], [[0.3, 0.3], [0.5, 0.1]]), once)])

    np.testing.assert_allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_no_tensor_of_a_step_has_the_size_of_the_vocabulary(name):
    """The only ops that see the whole table are handles, and what reads or writes rows of it."""
    num_rows = 1_234_567
    variable = tf.Variable(tf.zeros([num_rows, 2]))
    optimizer = make_optimizer(Training(optimizer=name), 1)
    optimizer.build([variable])

    @tf.function
    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(variable, rows) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])

    graph = step.get_concrete_function(tf.TensorSpec([None], tf.int32)).graph
    large = [
        operation.type
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank and output.shape[0] == num_rows
    ]
    assert large == []


def test_adam_survives_a_checkpoint(tmp_path):
    def trained(steps, optimizer, variable):
        for step in range(*steps):
            gradient = sparse([step % 3], [[0.1 * step + 0.1, -0.2]])
            optimizer.apply_gradients([(gradient, variable)])
        return variable.numpy()

    whole = trained((0, 6), RowSparseAdam(RATE), tf.Variable(tf.ones([5, 2])))
    first, half = RowSparseAdam(RATE), tf.Variable(tf.ones([5, 2]))
    trained((0, 3), first, half)
    path = tf.train.Checkpoint(optimizer=first, variable=half).write(str(tmp_path / "half"))
    second, resumed = RowSparseAdam(RATE), tf.Variable(tf.zeros([5, 2]))
    second.build([resumed])
    tf.train.Checkpoint(optimizer=second, variable=resumed).read(path).assert_consumed()

    np.testing.assert_array_equal(trained((3, 6), second, resumed), whole)


def test_the_settings_make_an_equal_optimizer():
    optimizer = RowSparseAdam(0.02, beta_1=0.8, beta_2=0.99, epsilon=1e-5)

    again = RowSparseAdam.from_config(optimizer.get_config())

    assert again.get_config() == optimizer.get_config()


def learned(optimizer, scale):
    """A table after 30 steps of a loss that is multiplied by a scale."""
    variable = tf.Variable(tf.constant([[0.3, -0.2], [0.1, 0.4]]))
    target = tf.constant([[1.0, 0.5], [-0.5, 0.2]])
    for _ in range(30):
        with tf.GradientTape() as tape:
            loss = scale * tf.reduce_sum((tf.gather(variable, [0, 1]) - target) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])
    return variable.numpy()


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_a_mean_over_4096_examples_learns_like_their_sum(name):
    training = Training(optimizer=name, learning_rate=RATE)

    mean = learned(make_optimizer(training, 1), 1 / 4096)
    total = learned(make_optimizer(training, 1), 1.0)

    np.testing.assert_allclose(mean, total, atol=0.01)


def test_keras_own_adagrad_would_learn_next_to_nothing_from_the_mean():
    """Why the accumulator is pinned: if this ever fails, the pin may go."""
    mean = learned(keras.optimizers.Adagrad(RATE, jit_compile=False), 1 / 4096)

    np.testing.assert_allclose(mean, [[0.3, -0.2], [0.1, 0.4]], atol=0.01)


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_the_cosine_schedule_ends_at_nothing_after_the_steps(name):
    """Half of the rate in the middle, by cos(pi / 2) = 0."""
    training = Training(optimizer=name, learning_rate=RATE, schedule="cosine")
    optimizer = make_optimizer(training, 20)

    rates = [float(optimizer._learning_rate(step)) for step in (0, 10, 20)]

    np.testing.assert_allclose(rates, [RATE, RATE / 2, 0.0], atol=1e-9)

"""Optimizers whose step costs what the batch touches, not what the vocabulary holds."""

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema.training import Training

# All that this project reads of the inside of `tf_keras.optimizers.Optimizer`. Keras documents the
# names for custom optimizers but does not promise to keep them: a test says which one has moved.
KERAS_INTERNALS = (
    "_build_learning_rate",
    "_index_dict",
    "_learning_rate",
    "_serialize_hyperparameter",
    "_var_key",
)


class RowSparseAdam(keras.optimizers.Optimizer):
    """Adam whose moments of an embedding row move only when the row has a gradient.

    Keras' own Adam decays the moments of every row at every step, which costs time in proportion
    to the vocabulary. Dense gradients get plain Adam.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.001,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "RowSparseAdam",
    ) -> None:
        """See `keras.optimizers.Adam` for the arguments."""
        # The base class' own default, a decay of 0, multiplies every row by it at every step.
        super().__init__(name=name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def build(self, var_list: list[tf.Variable]) -> None:
        """Makes the moments, once: Keras calls this at every step."""
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self._built = True  # Keras reads it too.
        self._first = [self.add_variable_from_reference(v, "m") for v in var_list]
        self._second = [self.add_variable_from_reference(v, "v") for v in var_list]

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Moves a variable, or the rows of it that have a gradient."""
        position = self._index_dict[self._var_key(variable)]
        first, second = self._first[position], self._second[position]
        step = tf.cast(self.iterations + 1, variable.dtype)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        rate = tf.cast(self.learning_rate, variable.dtype) * correction
        if isinstance(gradient, tf.IndexedSlices):
            rows, values = gradient.indices, gradient.values
            m = self.beta_1 * tf.gather(first, rows) + (1 - self.beta_1) * values
            v = self.beta_2 * tf.gather(second, rows) + (1 - self.beta_2) * tf.square(values)
            first.scatter_update(tf.IndexedSlices(m, rows))
            second.scatter_update(tf.IndexedSlices(v, rows))
            change = rate * m / (tf.sqrt(v) + self.epsilon)
            variable.scatter_sub(tf.IndexedSlices(change, rows))
        else:
            first.assign(self.beta_1 * first + (1 - self.beta_1) * gradient)
            second.assign(self.beta_2 * second + (1 - self.beta_2) * tf.square(gradient))
            variable.assign_sub(rate * first / (tf.sqrt(second) + self.epsilon))

    def get_config(self) -> dict[str, object]:
        """Arguments of this optimizer."""
        return {
            "learning_rate": self._serialize_hyperparameter(self._learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "name": self.name,
        }


def make_optimizer(training: Training, num_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer that the config names.

    Args:
        training: Names it.
        num_steps: Of the whole training, at whose end a schedule ends.
    """
    rate = training.learning_rate
    if training.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps)
    if training.optimizer == "adam":
        return RowSparseAdam(rate)
    # Keras' defaults, 0.1 and 1e-7, would swamp the gradients of a mean loss. With these a step
    # does not depend on the scale of the loss: mean and sum learn alike.
    return keras.optimizers.Adagrad(
        rate,
        initial_accumulator_value=1e-9,
        epsilon=1e-12,
        jit_compile=False,
    )

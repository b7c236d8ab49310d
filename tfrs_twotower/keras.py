"""TensorFlow with Keras 2, which TensorFlow Recommenders needs: see `tfrs_twotower/__init__.py`.

Import TensorFlow, Keras and TFRS from here wherever layers or models are made.
"""

from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.extras import need

need("train", "tensorflow", "tensorflow_recommenders", "tf_keras")

import tensorflow as tf  # noqa: E402

if not tf.keras.layers.Layer.__module__.startswith("tf_keras"):
    raise UserError(
        "TensorFlow was imported with Keras 3 before tfrs_twotower, and TensorFlow Recommenders "
        "needs Keras 2: restart the runtime and import tfrs_twotower first"
    )

import tensorflow_recommenders as tfrs  # noqa: E402
import tf_keras as keras  # noqa: E402

__all__ = ["keras", "tf", "tfrs"]

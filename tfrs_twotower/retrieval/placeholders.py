"""What stands in inputs and outputs where there is no candidate."""

import tensorflow as tf

# Stands where there is no score; REST cannot print an infinity.
NO_SCORE = tf.float32.min
NO_ID = ""

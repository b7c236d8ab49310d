"""The embeddings of many entries."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import TrainingDiverged

EMBED_BATCH = 4096

Floats = npt.NDArray[np.float32]


def embed(tower: keras.Model, inputs: Any, *, batch_size: int = EMBED_BATCH) -> Floats:
    """Embeddings of many entries, batch by batch, without dropout.

    Args:
        tower: Any Keras model: inputs of a batch -> `[batch, embedding_dim]` floats.
        inputs: What the tower takes, of all entries: an array or a nested mapping of arrays, each
            `[num_entries, ...]`.
        batch_size: Entries of a call.

    Returns:
        `[num_entries, embedding_dim]` float32.

    Raises:
        TrainingDiverged: If an embedding is not finite; NaN would rank first.
    """
    size = len(tf.nest.flatten(inputs)[0])

    def batch_from(first: int) -> Any:
        return tf.nest.map_structure(lambda values: values[first : first + batch_size], inputs)

    embeddings = np.concatenate(
        [tower(batch_from(first), training=False) for first in range(0, size, batch_size)]
    )
    if not np.isfinite(embeddings).all():
        raise TrainingDiverged.because(f"the {tower.name} gives values that are not finite")
    return embeddings

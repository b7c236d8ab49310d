"""Encoded features of many entries -> their embeddings."""

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Arrays
from tfrs_twotower.keras import keras
from tfrs_twotower.schema import TrainingDiverged

EMBED_BATCH = 4096

Floats = npt.NDArray[np.float32]


def embed(tower: keras.Model, encoded: Arrays) -> Floats:
    """Embeddings of encoded features, `[num_entries, embedding_dim]`, batch by batch.

    Raises:
        TrainingDiverged: If one is not finite; NaN would rank first.
    """
    size = len(next(iter(encoded.values())))
    batches = (
        {name: values[first : first + EMBED_BATCH] for name, values in encoded.items()}
        for first in range(0, size, EMBED_BATCH)
    )
    embeddings = np.concatenate([tower(batch, training=False) for batch in batches])
    if not np.isfinite(embeddings).all():
        raise TrainingDiverged.because(f"the {tower.name} gives values that are not finite")
    return embeddings

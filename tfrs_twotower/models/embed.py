"""The embeddings of many entries."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.encoding import PADDING_ROW
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import TrainingDiverged

EMBED_BATCH = 4096
# Of entries by length: the last batches alone are as wide as the longest list.
TRIMMED_BATCH = 1024

Floats = npt.NDArray[np.float32]


def embed(tower: keras.Model, inputs: Any, *, batch_size: int | None = None) -> Floats:
    """Embeddings of many entries, batch by batch, without dropout.

    A tower with an attribute `trimmed`, the names of inputs that a batch reads up to its longest
    list, gets entries of like length together, so that short lists do not cost what long ones do.

    Args:
        tower: Any Keras model: inputs of a batch -> `[batch, embedding_dim]` floats.
        inputs: What the tower takes, of all entries: an array or a nested mapping of arrays, each
            `[num_entries, ...]`.
        batch_size: Entries of a call; None: `EMBED_BATCH`, or `TRIMMED_BATCH` by length.

    Returns:
        `[num_entries, embedding_dim]` float32, in the order of the entries.

    Raises:
        TrainingDiverged: If an embedding is not finite; NaN would rank first.
    """
    size = len(tf.nest.flatten(inputs)[0])
    trimmed = getattr(tower, "trimmed", ())
    batch_size = batch_size or (TRIMMED_BATCH if trimmed else EMBED_BATCH)
    entries: Any = np.argsort(_lengths(inputs, trimmed), kind="stable") if trimmed else None

    def batch_from(first: int) -> Any:
        batch = slice(first, first + batch_size)
        taken = batch if entries is None else entries[batch]
        return tf.nest.map_structure(lambda values: values[taken], inputs)

    embeddings = np.concatenate(
        [tower(batch_from(first), training=False) for first in range(0, size, batch_size)]
    )
    if not np.isfinite(embeddings).all():
        raise TrainingDiverged.because(f"the {tower.name} gives values that are not finite")
    if entries is None:
        return embeddings
    in_order = np.empty_like(embeddings)
    in_order[entries] = embeddings
    return in_order


def _lengths(inputs: Mapping[str, npt.NDArray[Any]], names: Iterable[str]) -> npt.NDArray[np.int64]:
    """`[num_entries]`: the sum of the lengths of the lists of these inputs."""
    return sum(np.count_nonzero(inputs[name] != PADDING_ROW, axis=1) for name in names)

"""SavedModels of a models folder, read back: towers to embed with, retrieval to ask."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf

from tfrs_twotower.features.raw_inputs import candidate_inputs, query_inputs
from tfrs_twotower.publishing.models_folder import QUERY_EMBEDDING
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.scann_ops import register_scann_ops

# Of one size, so that a candidate's vector does not depend on how many others there are.
EMBED_BATCH = 4096

Floats = npt.NDArray[np.float32]
Tower = Callable[[Mapping[str, tf.Tensor]], tf.Tensor]


class LoadedSignature(tf.Module):
    """A SavedModel and one of its signatures."""

    def __init__(self, folder: Path, signature: str = "serving_default") -> None:
        """Loads it.

        Args:
            folder: A version of a model.
            signature: Which to call.
        """
        super().__init__()
        register_scann_ops()
        # A signature does not keep its model alive: without a reference, the variables are freed.
        self._loaded = tf.saved_model.load(str(folder))
        self._signature = self._loaded.signatures[signature]

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The inputs of the signature by name."""
        return dict(self._signature.structured_input_signature[1])

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> Any:
        """The outputs of the signature by name.

        Args:
            inputs: At least those of `inputs`.
        """
        return self._signature(**{name: inputs[name] for name in self.inputs})


class LoadedQueryTower(LoadedSignature):
    """A query tower, to be a part of another model; see `retrieval.QueryTower`."""

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`[batch, embedding_dim]` float32."""
        return super().__call__(inputs)[QUERY_EMBEDDING]


def embed_candidates(
    tower: LoadedSignature, features: Mapping[str, Feature], table: pa.Table
) -> Floats:
    """Embeddings of candidates, `[num_candidates, embedding_dim]`.

    Args:
        tower: A candidate tower.
        features: Of the candidate side, by name.
        table: Rows of `candidates`.
    """
    batches = [
        tower(candidate_inputs(features, table.slice(first, EMBED_BATCH)))["candidate_embedding"]
        for first in range(0, len(table), EMBED_BATCH)
    ]
    return np.concatenate([batch.numpy() for batch in batches]).astype(np.float32, copy=False)


def embed_queries(tower: Tower, features: Mapping[str, Feature], table: pa.Table) -> Floats:
    """Embeddings of queries, `[num_queries, embedding_dim]`.

    Args:
        tower: Raw features -> `[batch, embedding_dim]` float32.
        features: Of the query side, by name.
        table: Rows of `queries`, at least one.
    """
    batches = [
        tower(query_inputs(features, table.slice(first, EMBED_BATCH)))
        for first in range(0, len(table), EMBED_BATCH)
    ]
    return np.concatenate([batch.numpy() for batch in batches])

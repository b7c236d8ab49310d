"""Exact search by the dot product, with stock TensorFlow ops."""

from typing import Any

import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex


class ExactIndex(CandidateIndex):
    """Matrix product and top-k: stock TensorFlow ops only, so any server can load it."""

    @property
    def description(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        return {"kind": "exact"}

    @property
    def searcher_bytes(self) -> int:
        """None: it reads the embeddings."""
        return 0

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        return self._find_exactly(queries, k)

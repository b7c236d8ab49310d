"""Distinct texts of a SavedModel, and the way from a text to its row and back."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrs_twotower.schema import UserError

NO_ROW = -1
NUM_HASHES = 2**63 - 1


class StringTable(tf.Module):
    """Distinct texts, each at its row.

    Strings are found by their 64-bit hashes in a sorted list: variables of 16 bytes a string, where
    one of TensorFlow's lookup tables would be an order of magnitude larger and slow to load.
    """

    def __init__(self, texts: Sequence[bytes], name: str) -> None:
        """Keeps the texts as variables.

        Args:
            texts: Distinct, UTF-8, at least one; none is empty.
            name: What they are, for errors and variables.

        Raises:
            UserError: If two texts have the same hash.
        """
        super().__init__()
        hashes = tf.strings.to_hash_bucket_fast(np.array(texts, np.object_), NUM_HASHES).numpy()
        row_of_hash = np.argsort(hashes, kind="stable")
        hashes = hashes[row_of_hash]
        if (hashes[1:] == hashes[:-1]).any():
            raise UserError(f"two of the {name} have the same 64-bit hash: rename one of them")
        self._texts = tf.Variable(list(texts), trainable=False, name="texts")
        self._hashes = tf.Variable(hashes, trainable=False, name="sorted_hashes")
        self._row_of_hash = tf.Variable(row_of_hash, trainable=False, name="row_of_hash")

    def __len__(self) -> int:
        """How many texts there are."""
        return int(self._texts.shape[0])

    def rows(self, texts: tf.Tensor) -> tf.Tensor:
        """Rows, int64, of texts of any shape; -1 where a text is unknown or ""."""
        hashes = tf.strings.to_hash_bucket_fast(tf.reshape(texts, [-1]), NUM_HASHES)
        place = tf.searchsorted(self._hashes, hashes)
        last = len(self) - 1
        rows = tf.gather(tf.convert_to_tensor(self._row_of_hash), tf.minimum(place, last))
        rows = tf.reshape(rows, tf.shape(texts))
        return tf.where(self.texts(rows) == texts, rows, tf.constant(NO_ROW, tf.int64))

    def texts(self, rows: tf.Tensor) -> tf.Tensor:
        """Strings of rows of any shape, each within range."""
        return tf.gather(tf.convert_to_tensor(self._texts), rows)

"""The candidates of a history with features beside their ids.

A request names the candidates of its history by id alone, so the model itself holds their features.
Encoded, such a history has rows of its own vocabulary, which lists the whole corpus: a candidate
that has no row in the id's vocabulary, a new one for example, still has its features.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.dense import DenseFeatures
from tfrs_twotower.features.encoding import FIRST_OOV_ROW, Encoder
from tfrs_twotower.features.raw_inputs import missing_input
from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema.features import Feature, Id

Arrays = dict[str, np.ndarray]


def by_history_row(
    features: Mapping[str, Feature],
    vocabulary_dir: str | Path,
    num_rows: int,
    rows: npt.NDArray[np.integer],
    encoded: Mapping[str, np.ndarray],
) -> Arrays:
    """Encoded candidates in the order of a history's rows.

    Args:
        features: The id and the features that a history reads, by name.
        vocabulary_dir: See `Encoder`.
        num_rows: Of the history.
        rows: `[num_candidates]` row of each candidate; of one that its vocabulary does not list
            that of unknown ids.
        encoded: `[num_candidates, ...]` by feature, see `Encoder.encoded_specs`.

    Returns:
        `[num_rows, ...]` by feature, int32 and float32. Of padding and of unknown candidates all
        features are missing, and the id is in the row that it has in its own vocabulary.
    """
    [candidate_id] = [feature for feature in features.values() if isinstance(feature, Id)]
    first_listed = FIRST_OOV_ROW + candidate_id.oov_buckets
    is_listed = rows >= first_listed
    raw = {name: missing_input(feature, name, 1) for name, feature in features.items()}
    placed = {}
    for name, missing in Encoder(features, vocabulary_dir)(raw).items():
        dtype = np.int32 if missing.dtype.is_integer else np.float32
        values = np.repeat(missing.numpy().astype(dtype), num_rows, axis=0)
        if features[name] is candidate_id:
            values[:first_listed] = np.arange(first_listed)
            values[first_listed:] = FIRST_OOV_ROW
        values[rows[is_listed]] = encoded[name][is_listed]
        placed[name] = values
    return placed


class HistoryCandidates(keras.layers.Layer):
    """Rows of a history -> the embeddings of the candidates' ids and features, added up.

    The tables of the features are those of the candidate tower. Their dense vectors are brought to
    the width of the id's embedding by a linear map.

    Attributes:
        encoded: `[num_rows, ...]` by feature, variables that are not trained. Their number of rows
            is not fixed: a refresh gives a served model other candidates.
        output_dim: Width of the embedding.
    """

    def __init__(
        self,
        id_name: str,
        id_table: keras.layers.Embedding,
        features: DenseFeatures,
        encoded: Mapping[str, np.ndarray],
        *,
        seed: int,
        name: str,
    ) -> None:
        """Joins the parts.

        Args:
            id_name: Of the feature that is the candidate's id.
            id_table: Its embedding table.
            features: Of the other features.
            encoded: See `by_history_row`.
            seed: Of the initial weights.
            name: Of the layer.
        """
        super().__init__(name=name)
        self.output_dim = id_table.output_dim
        self.encoded = {
            feature: tf.Variable(
                values, trainable=False, shape=[None, *values.shape[1:]], name=f"{name}_{feature}"
            )
            for feature, values in encoded.items()
        }
        self._id_name, self._id_table, self._features = id_name, id_table, features
        self._to_width = keras.layers.Dense(
            self.output_dim,
            use_bias=False,
            kernel_initializer=keras.initializers.GlorotUniform(seed_of(seed, "to_width")),
        )

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Embeds candidates.

        Args:
            rows: Int rows of a history, of any shape.

        Returns:
            `[*rows.shape, output_dim]` float32.
        """
        # Each candidate once: those of a batch repeat.
        distinct, place = tf.unique(tf.reshape(rows, [-1]))
        encoded = {name: tf.gather(values, distinct) for name, values in self.encoded.items()}
        ids = self._id_table(encoded[self._id_name])
        vectors = tf.gather(ids + self._to_width(self._features(encoded)), place)
        return tf.reshape(vectors, tf.concat([tf.shape(rows), [self.output_dim]], axis=0))

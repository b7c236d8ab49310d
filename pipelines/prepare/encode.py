"""Canonical columns -> encoded arrays, by the TensorFlow ops that the served models use.

Encoding looks at each value alone, so text is encoded once a distinct value and then gathered.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from pipelines.io.example_records import FLOAT, INT, Field, int_width
from pipelines.io.tables import dictionary
from pipelines.prepare.validate import tokens_of
from tfrs_twotower.features.encoding import TIMESTAMP_PART_ROWS, Encoder, encoded_spec
from tfrs_twotower.schema.features import (
    Boolean,
    Feature,
    MultiCategorical,
    Number,
    Timestamp,
    Vector,
)


def encode(
    encoder: Encoder, features: Mapping[str, Feature], columns: Mapping[str, pa.Array]
) -> dict[str, np.ndarray]:
    """Encodes features.

    Args:
        encoder: Of these features.
        features: By name; no history.
        columns: By feature, in canonical form (see `pipelines.prepare.columns`), text as string or
            dictionary array, null for missing.

    Returns:
        By feature the array of `encoding.encoded_spec`.
    """
    raw, codes = {}, {}
    for name, feature in features.items():
        values = columns[name]
        if isinstance(feature, Number | Boolean):
            raw[name] = pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False)
        elif isinstance(feature, Timestamp):
            raw[name] = pc.fill_null(values, 0).to_numpy(zero_copy_only=False)
        elif isinstance(feature, Vector):
            raw[name] = _matrix(values, feature.dimension)
        else:
            distinct = dictionary(values)
            codes[name] = pc.fill_null(distinct.indices, len(distinct.dictionary)).to_numpy(
                zero_copy_only=False
            )
            texts = distinct.dictionary
            # One more, for null.
            raw[name] = _strings(feature, pa.concat_arrays([texts, pa.array([""], texts.type)]))
    encoded = {name: array.numpy() for name, array in encoder(raw).items()}
    return {name: array[codes[name]] if name in codes else array for name, array in encoded.items()}


def record_fields(encoder: Encoder, features: Mapping[str, Feature]) -> list[Field]:
    """The fields that encoded features take in a record."""
    fields = []
    for name, feature in features.items():
        spec = encoded_spec(feature, name)
        length = int(np.prod(spec.shape[1:].as_list(), dtype=int))
        if spec.dtype == tf.float32:
            fields.append(Field(name, FLOAT, length))
            continue
        if isinstance(feature, Timestamp):
            largest = max(TIMESTAMP_PART_ROWS[part] for part in feature.parts)
        else:
            largest = encoder.num_rows(name)
        fields.append(Field(name, INT, length, int_width(largest)))
    return fields


def _strings(feature: Feature, text: pa.Array) -> np.ndarray:
    """The raw strings of a feature: `[n]`, or `[n, most]` padded with ""."""
    if not isinstance(feature, MultiCategorical):
        return text.to_numpy(zero_copy_only=False)
    lists = tokens_of(text)
    lengths = pc.list_value_length(lists).to_numpy()
    padded = np.full((len(text), max(int(lengths.max()), 1)), "", object)
    places = np.arange(padded.shape[1]) < lengths[:, np.newaxis]
    padded[places] = lists.flatten().to_numpy(zero_copy_only=False)
    return padded


def _matrix(vectors: pa.FixedSizeListArray, dimension: int) -> np.ndarray:
    """`[n, dimension]` float32, NaN for null."""
    is_there = pc.is_valid(vectors).to_numpy(zero_copy_only=False)
    matrix = np.full((len(vectors), dimension), np.nan, np.float32)
    matrix[is_there] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return matrix

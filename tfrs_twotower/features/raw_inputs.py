"""Tables of a models folder -> inputs of its models.

`candidates` and `queries` hold raw features as people write them: text, lists, numbers, null where
a value is missing. `encoding.raw_spec` describes what the models take.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrs_twotower.features.encoding import missing_value, raw_spec
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.features import (
    Boolean,
    Feature,
    History,
    Id,
    MultiCategorical,
    Number,
    Timestamp,
    Vector,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID


def candidate_inputs(features: Mapping[str, Feature], table: pa.Table) -> dict[str, tf.Tensor]:
    """The inputs of the candidate tower.

    Args:
        features: Of the candidate side, by name.
        table: Rows of `candidates`.
    """
    return {
        name: _tensor(feature, _column(table, CANDIDATE_ID if isinstance(feature, Id) else name))
        for name, feature in features.items()
    }


def query_inputs(features: Mapping[str, Feature], table: pa.Table) -> dict[str, tf.Tensor]:
    """The inputs of the query tower; what the table does not hold, such as the moment, is missing.

    Args:
        features: Of the query side and the context, by name.
        table: Rows of `queries`.
    """
    return {
        name: _tensor(feature, _column(table, name))
        if name in table.column_names
        else missing_input(feature, name, len(table))
        for name, feature in features.items()
    }


def one_query_inputs(
    features: Mapping[str, Feature], values: Mapping[str, Any]
) -> dict[str, tf.Tensor]:
    """`query_inputs` of one query.

    Args:
        features: Of the query side and the context, by name.
        values: As people write them; what is not named or null is missing.

    Raises:
        UsageError: If a value does not fit its feature.
    """
    inputs = {}
    for name, feature in features.items():
        value = values.get(name)
        if value is None:
            inputs[name] = missing_input(feature, name, 1)
            continue
        try:
            column = pa.array([value])
            if isinstance(feature, Timestamp):
                column = column.cast(pa.int64())
            inputs[name] = _tensor(feature, column)
        except (pa.ArrowException, AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"{name} takes {_expected(feature)}, got {value!r}") from error
    return inputs


def _expected(feature: Feature) -> str:
    match feature:
        case Number():
            return "a number"
        case Boolean():
            return "true or false"
        case Timestamp():
            return "Unix seconds, a whole number"
        case Vector():
            return f"a list of {feature.dimension} numbers"
        case MultiCategorical() | History():
            return "a list of texts"
        case _:
            return "text"


def _column(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks()


def missing_input(feature: Feature, name: str, num_rows: int | tf.Tensor) -> tf.Tensor:
    """The input of a feature of which nothing is known, for `num_rows` rows."""
    spec = raw_spec(feature, name)
    shape = [num_rows, *(size or 1 for size in spec.shape[1:])]
    return tf.fill(shape, tf.constant(missing_value(feature), spec.dtype))


def _tensor(feature: Feature, column: pa.Array) -> tf.Tensor:
    match feature:
        case Number() | Boolean():
            values = pc.fill_null(pc.cast(column, pa.float32()), float("nan"))
            return tf.constant(values.to_numpy(zero_copy_only=False))
        case Timestamp():
            return tf.constant(pc.fill_null(column, 0).to_numpy(zero_copy_only=False), tf.int64)
        case Vector():
            rows = np.full((len(column), feature.dimension), np.nan, np.float32)
            is_there = pc.is_valid(column).to_numpy(zero_copy_only=False)
            values = pc.list_flatten(column).to_numpy(zero_copy_only=False)
            rows[is_there] = values.reshape(-1, feature.dimension)
            return tf.constant(rows)
        case MultiCategorical() | History():
            lengths = pc.fill_null(pc.list_value_length(column), 0)
            ragged = tf.RaggedTensor.from_row_lengths(
                _strings(pc.list_flatten(column)), lengths.to_numpy(zero_copy_only=False)
            )
            # Starts with "", see `retrieval.padding`: also a column where every list is empty.
            return tf.concat([tf.fill([len(column), 1], ""), ragged], axis=1).to_tensor("")
        case _:
            return _strings(column)


def _strings(column: pa.Array) -> tf.Tensor:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values = pc.fill_null(pc.cast(column, pa.string()), "").to_numpy(zero_copy_only=False)
    return tf.constant(values, tf.string)

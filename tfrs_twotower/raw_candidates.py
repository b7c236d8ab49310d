"""Candidates as a table -> what the candidate tower reads, in batches."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrs_twotower.schema.features import (
    Boolean,
    Feature,
    Id,
    MultiCategorical,
    Number,
    Timestamp,
    Vector,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID

# Of one size, so that a candidate's vector does not depend on how many others there are.
EMBED_BATCH = 4096

Embed = Callable[[Mapping[str, tf.Tensor]], tf.Tensor]


def load_candidate_tower(folder: Path) -> Embed:
    """The candidate tower of a version: raw features -> `[batch, embedding_dim]`."""
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def embed(raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        # The signature lives no longer than what it was loaded with.
        assert loaded is not None
        return signature(**raw)["candidate_embedding"]

    return embed


def embed_candidates(
    embed: Embed, features: Mapping[str, Feature], table: pa.Table
) -> npt.NDArray[np.float32]:
    """Embeddings of candidates, `[num_candidates, embedding_dim]`.

    Args:
        embed: See `load_candidate_tower`.
        features: Of the candidate side, by name.
        table: One row a candidate: `candidate_id` and the raw features, as `candidates` of a
            models folder holds them.
    """
    batches = [
        embed(raw_inputs(features, table.slice(first, EMBED_BATCH))).numpy()
        for first in range(0, len(table), EMBED_BATCH)
    ]
    return np.concatenate(batches).astype(np.float32, copy=False)


def raw_inputs(features: Mapping[str, Feature], table: pa.Table) -> dict[str, tf.Tensor]:
    """The inputs of the candidate tower for rows of a table; see `encoding.raw_spec`."""
    raw = {}
    for name, feature in features.items():
        column = table.column(CANDIDATE_ID if isinstance(feature, Id) else name).combine_chunks()
        raw[name] = _tensor(feature, column)
    return raw


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
        case MultiCategorical():
            lengths = pc.fill_null(pc.list_value_length(column), 0)
            ragged = tf.RaggedTensor.from_row_lengths(
                _strings(pc.list_flatten(column)), lengths.to_numpy(zero_copy_only=False)
            )
            # A column at least: the tower takes no empty axis.
            return tf.concat([ragged, tf.fill([len(column), 1], "")], axis=1).to_tensor("")
        case _:
            return _strings(column)


def _strings(column: pa.Array) -> tf.Tensor:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values = pc.fill_null(pc.cast(column, pa.string()), "").to_numpy(zero_copy_only=False)
    return tf.constant(values, tf.string)

"""Candidates that are what they were in an earlier version keep their embeddings."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tfrs_twotower.publishing.indexes import EMBEDDING, matrix
from tfrs_twotower.publishing.saved_model_reader import LoadedSignature, embed_candidates
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.prepared import CANDIDATE_ID

Flags = npt.NDArray[np.bool_]

# Two roundings of one vector differ by less.
SAME_VECTOR = 1e-6


class Embedded(NamedTuple):
    """The embeddings of a corpus.

    Attributes:
        embeddings: `[num_candidates, embedding_dim]`, the earlier one where that is the same.
        earlier_rows: `[num_candidates]` int64, where the candidate was; -1: it is new.
        is_same: `[num_candidates]` whether it was there with the same embedding.
    """

    embeddings: npt.NDArray[np.float32]
    earlier_rows: npt.NDArray[np.int64]
    is_same: Flags


def embed_changed(
    tower: LoadedSignature, features: Mapping[str, Feature], table: pa.Table, earlier: pa.Table
) -> Embedded:
    """Embeds the candidates that are new or have other features than in an earlier version.

    Args:
        tower: The candidate tower of the earlier version.
        features: Of the candidate side, by name.
        table: Rows of `candidates`: the new corpus.
        earlier: Rows of `candidates` as they were stored, with their embeddings.
    """
    place = pc.index_in(table.column(CANDIDATE_ID), earlier.column(CANDIDATE_ID).combine_chunks())
    rows = pc.fill_null(place, -1).to_numpy().astype(np.int64)
    embeddings = matrix(earlier, EMBEDDING)[rows]
    is_same = rows >= 0
    known = np.flatnonzero(is_same)
    for name in features:
        if name in earlier.column_names:  # All but the id.
            before = earlier.column(name).combine_chunks().take(pa.array(rows[known]))
            now = table.column(name).combine_chunks().take(pa.array(known))
            is_same[known] &= same_values(before, now)
    others = np.flatnonzero(~is_same)
    if len(others):
        found = embed_candidates(tower, features, table.take(others))
        is_near = np.abs(found - embeddings[others]).max(axis=1) <= SAME_VECTOR
        is_near &= rows[others] >= 0
        embeddings[others[~is_near]] = found[~is_near]
        is_same[others] = is_near
    return Embedded(embeddings, rows, is_same)


def same_values(first: pa.Array, second: pa.Array) -> Flags:
    """Which values of two columns are the same; two that are missing, or NaN, are.

    Args:
        first: Text, numbers, truth values or lists of these.
        second: Of the same length; of a type that can become that of `first`, else no value is the
            same.

    Returns:
        `[len(first)]`.
    """
    first, second = _plain(first), _plain(second)
    if _is_list(first.type) and _is_list(second.type):
        return _same_lists(first, second)
    try:
        second = second.cast(first.type)
        equal = pc.fill_null(pc.equal(first, second), False)  # noqa: FBT003
    except pa.ArrowException:
        return np.zeros(len(first), bool)
    same = _flags(equal) | (_flags(first.is_null()) & _flags(second.is_null()))
    if pa.types.is_floating(first.type):
        same |= _flags(pc.fill_null(pc.is_nan(first), False)) & _flags(
            pc.fill_null(pc.is_nan(second), False)
        )
    return same


def _same_lists(first: pa.Array, second: pa.Array) -> Flags:
    lengths = [
        pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        for column in (first, second)
    ]
    same = lengths[0] == lengths[1]
    # Of lists of the same lengths the elements stand side by side.
    alike = pa.array(same)
    elements = same_values(
        pc.list_flatten(first.filter(alike)), pc.list_flatten(second.filter(alike))
    )
    owners = np.repeat(np.flatnonzero(same), np.maximum(lengths[0][same], 0))
    same[owners[~elements]] = False
    return same


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _flags(values: pa.Array) -> Flags:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)

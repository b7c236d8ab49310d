"""The rules of each query of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from tfrs_twotower.retrieval.ranges import Range
from tfrs_twotower.retrieval.string_table import NO_ROW


class Filter(NamedTuple):
    """What a request wants of one attribute."""

    any_of: tf.Tensor  # [batch, n] int64 value rows; -1: nothing, or an unknown value.
    none_of: tf.Tensor  # [batch, m]
    is_restricted: tf.Tensor  # [batch] bool: `any_of` names a value, if only an unknown one.


class Request(NamedTuple):
    """The rules of each query of a batch, read and checked."""

    k: tf.Tensor  # [batch] int32
    excluded: tf.Tensor  # [batch, n] int64 candidate rows; -1: none.
    allowed: tf.Tensor  # [batch, m]
    has_allow_list: tf.Tensor  # [batch] bool
    filters: Mapping[str, Filter]  # By attribute.
    ranges: tuple[Range, ...]  # In the order of `CandidateAttributes.bounded`.
    half_life_s: tf.Tensor  # [batch] float32; 0: time does not matter.
    now_s: tf.Tensor  # [batch] int64; 0: not known.
    max_per_category: tf.Tensor  # [batch] int32; 0: no limit.
    mmr_lambda: tf.Tensor  # [batch] float32, 0 to 1; 1: relevance alone.
    min_score: tf.Tensor  # [batch] float32


def is_filtered(request: Request) -> tf.Tensor:
    """Whether a filter or bounds apply to any query, bool scalar."""
    asked = []
    for wanted in request.filters.values():
        asked += [tf.reduce_any(wanted.is_restricted), tf.reduce_any(wanted.none_of != NO_ROW)]
    asked += [tf.reduce_any(bounds.is_restricted) for bounds in request.ranges]
    return tf.reduce_any(tf.stack(asked))

"""Where the candidates of an answer are sought: whichever way costs least."""

from typing import NamedTuple

import tensorflow as tf

from tfrs_twotower.retrieval.input_checks import MAX_CELLS
from tfrs_twotower.retrieval.rules.request import Request
from tfrs_twotower.retrieval.rules.variety import count_needed
from tfrs_twotower.retrieval.string_table import NO_ROW

# How many times more candidates are looked at where a rule will reorder them or cap categories.
OVERFETCH = 4

# A pool beyond this many candidates costs more than scoring the eligible ones.
LARGEST_POOL = 4096
# A pool beyond this many candidates costs more than scoring the eligible ones in near leaves.
LARGEST_POOL_BESIDE_LEAVES = 500
# How many times more candidates are sought than the share of those that pass a filter asks for.
SPARE = 1.5
# A sum of shares may claim that nothing is left.
SMALLEST_SHARE = 1e-9
# In place of a filter's number.
NO_LIST = -1


class ShortestList(NamedTuple):
    """What the filters and bounds of each query of a batch leave, and which leaves fewest."""

    share: tf.Tensor  # [batch] float32: about which share of the corpus passes them all.
    place: tf.Tensor  # [batch] int32: the number of that filter, then of bounds; or `NO_LIST`.
    size: tf.Tensor  # [batch] int32: how many candidates it leaves, at least.
    is_only: tf.Tensor  # [batch] bool: there is no other filter and no other bound.


class Plan(NamedTuple):
    """Where the candidates of each answer of a batch are sought."""

    pool_size: tf.Tensor  # [batch] int32: so many of the best probably hold it; 0: not there.
    # [batch] int32: so many of the best in the list of `place` and in near leaves; 0: not there.
    num_near: tf.Tensor
    share: tf.Tensor  # [batch] float32, above 0: see `ShortestList`.
    is_listed: tf.Tensor  # [batch] bool: in the list of `place`, or in the allow-list.
    place: tf.Tensor  # [batch] int32: see `ShortestList`.
    is_settled: tf.Tensor  # [batch] bool: all of the list are eligible.


def plan_search(request: Request, shortest: ShortestList, num_near_lists: int) -> Plan:
    """Where the candidates of each answer are sought.

    Args:
        request: Of `batch` queries.
        shortest: Of the same.
        num_near_lists: See `FilterLists`.
    """
    num_excluded = tf.math.count_nonzero(request.excluded != NO_ROW, axis=1, dtype=tf.int32)
    least = count_needed(request) + num_excluded
    reorders = (request.half_life_s > 0) | (request.max_per_category > 0)
    factor = tf.where(reorders, float(OVERFETCH), 1.0)
    factor *= tf.where(
        shortest.share < 1.0, SPARE / tf.maximum(shortest.share, SMALLEST_SHARE), 1.0
    )
    size = factor * tf.cast(least, tf.float32)
    size = tf.cast(tf.math.ceil(tf.minimum(size, 2.0**30)), tf.int32)
    is_too_large = (factor > 1.0) & (size > LARGEST_POOL)
    # An allow-list holds them all.
    has_list = (shortest.place != NO_LIST) & ~request.has_allow_list
    is_wide = (size > LARGEST_POOL_BESIDE_LEAVES) if num_near_lists else is_too_large
    is_near = has_list & (shortest.place < num_near_lists) & is_wide
    is_near &= shortest.size > LARGEST_POOL
    most = MAX_CELLS // tf.maximum(tf.shape(size)[0], 1)
    is_few = has_list & ~is_near & (shortest.size <= most)
    longest = tf.where(is_wide, tf.maximum(size, LARGEST_POOL), size)
    is_few &= is_too_large | (shortest.size <= longest)
    is_listed = is_few | request.has_allow_list
    return Plan(
        pool_size=tf.where(is_too_large | is_listed | is_near, 0, size),
        num_near=tf.where(is_near, least * tf.where(reorders, OVERFETCH, 1), 0),
        share=tf.maximum(shortest.share, SMALLEST_SHARE),
        is_listed=is_listed,
        place=tf.where(has_list, shortest.place, NO_LIST),
        is_settled=(is_few | is_near) & shortest.is_only & (num_excluded == 0),
    )

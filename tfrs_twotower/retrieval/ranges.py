"""Numbers of the candidates, found by their bounds."""

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from tfrs_twotower.retrieval.lists import CandidateLists, Listed
from tfrs_twotower.schema import UserError

# What no bound asks for: REST cannot print an infinity.
LOWEST, HIGHEST = tf.float64.min, tf.float64.max


class Range(NamedTuple):
    """What a request wants of one number; both bounds belong to it."""

    least: tf.Tensor  # [batch], of the type of the numbers.
    most: tf.Tensor  # [batch]
    is_restricted: tf.Tensor  # [batch] bool: at least one bound is given.


class RangeAttribute(tf.Module):
    """A number of each candidate, and the candidates in the order of their numbers."""

    def __init__(self, name: str, column: pa.Array, *, missing: float = math.nan) -> None:
        """Keeps the numbers as variables.

        Args:
            name: Of the attribute.
            column: One entry a candidate: a number, or the text of one; null, NaN and "" are
                missing.
            missing: What stands for a missing number; NaN: it is within no bounds.

        Raises:
            UserError: If the column holds something else.
        """
        super().__init__()
        numbers = range_numbers(name, column)
        numbers = np.where(np.isnan(numbers), numbers.dtype.type(missing), numbers)
        # NaN is last.
        order = np.argsort(numbers, kind="stable")[: int((~np.isnan(numbers)).sum())]
        self._lists = CandidateLists(order, name, len(numbers))
        self._numbers, self._ascending = (
            tf.Variable(value, trainable=False, name=f"{kind}_{name}")
            for kind, value in {"numbers_of": numbers, "ascending": numbers[order]}.items()
        )

    def range(self, least: tf.Tensor, most: tf.Tensor) -> Range:
        """The bounds of each query.

        They are rounded as the numbers were: what a file holds as 0.1 is not above 0.1.

        Args:
            least: `[batch]` float64; `LOWEST` or less: no bound.
            most: `[batch]` float64; `HIGHEST` or more: no bound.
        """
        dtype = self._numbers.dtype
        has_least, has_most = least > LOWEST, most < HIGHEST
        # A number that stands for a missing one may be infinite.
        least = tf.where(has_least, tf.cast(least, dtype), -math.inf)
        most = tf.where(has_most, tf.cast(most, dtype), math.inf)
        return Range(least, most, has_least | has_most)

    def listed(self, wanted: Range) -> Listed:
        """The candidates within the bounds of each query."""
        ascending = tf.convert_to_tensor(self._ascending)
        first = tf.searchsorted(ascending, wanted.least, side="left")
        last = tf.maximum(first, tf.searchsorted(ascending, wanted.most, side="right"))
        return self._lists.listed(first[:, tf.newaxis], last[:, tf.newaxis])

    def is_within(self, candidate_rows: tf.Tensor, wanted: Range) -> tf.Tensor:
        """Which candidates, `[batch, n]` int64, are within the bounds: `[batch, n]` bool."""
        numbers = tf.gather(tf.convert_to_tensor(self._numbers), candidate_rows)
        least, most = wanted.least[:, tf.newaxis], wanted.most[:, tf.newaxis]
        is_within = (numbers >= least) & (numbers <= most)
        return is_within | ~wanted.is_restricted[:, tf.newaxis]


def range_numbers(name: str, column: pa.Array) -> np.ndarray:
    """The numbers that requests can bound.

    Args:
        name: Of the attribute.
        column: See `RangeAttribute`.

    Returns:
        `[num_candidates]` float32 of single precision, else float64; NaN where missing.

    Raises:
        UserError: See `RangeAttribute`.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    dtype = pa.float32() if pa.types.is_float32(column.type) else pa.float64()
    try:
        if pa.types.is_boolean(column.type):
            raise pa.ArrowTypeError("truth values have no order")
        numbers = pc.fill_null(pc.cast(column, dtype), math.nan)
    except pa.ArrowException as error:
        raise UserError(f"`rules` names {name}, which holds no numbers: {error}") from error
    return np.asarray(numbers.to_numpy(zero_copy_only=False))

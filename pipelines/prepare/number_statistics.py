"""Statistics of numbers in bounded memory, the same however the data are cut and merged.

Up to `MAX_DISTINCT` distinct values all are kept with their counts, and the statistics are those of
the values. Beyond, only the 16 leading bits of each value are (sign, exponent, 7 bits of the
mantissa), in at most 2**16 bins: a quantile is off by at most `QUANTILE_ERROR` of its size, as in
DDSketch (Masson et al., 2019). Sketches of ranks, such as KLL, draw lots or depend on the order of
merging: the same data would have other statistics in the next run.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column, from_ipc
from tfrs_twotower.schema.prepared import NumberStatistics

VALUE, COUNT = "value", "count"
QUANTILES = tuple(tenth / 10 for tenth in range(11))
MAX_DISTINCT = 1 << 18
QUANTILE_ERROR = 2.0**-8

KEPT_BITS, MIDDLE_BITS = np.uint32(0xFFFF0000), np.uint32(0x8000)
MANTISSA_BITS, LOW_BITS = 53, 26
SCALE_BITS = 1200  # Exact sums count in units of 2**-1200; the smallest float64 is 2**-1074.


def count_values(values: pa.Array) -> pa.Table:
    """Distinct values of a column and how often each occurs; nulls do not count."""
    counted = pc.value_counts(pc.drop_null(values))
    return pa.table({VALUE: counted.field(0), COUNT: counted.field(1)})


class Sketch(NamedTuple):
    """What is known of some values."""

    values: np.ndarray  # [n] float32, ascending, distinct
    counts: np.ndarray  # [n] int64
    # Exact sums of the values, their squares, their logs, and the squares of these, once the values
    # are bins; see `exact_sum`.
    sums: list[int] | None = None


class DescribeNumbers(beam.CombineFn):
    """Tables of `count_values`, as IPC streams, -> `NumberStatistics` of all values."""

    def create_accumulator(self) -> Sketch:
        """Of no value."""
        return Sketch(np.zeros(0, np.float32), np.zeros(0, np.int64))

    def add_input(self, sketch: Sketch, data: bytes) -> Sketch:
        """Adds values."""
        table = from_ipc(data)
        # The zero that is added makes one of 0 and -0.
        values = column(table, VALUE).to_numpy().astype(np.float32) + np.float32(0)
        return self.merge_accumulators([sketch, Sketch(values, column(table, COUNT).to_numpy())])

    def merge_accumulators(self, sketches: Iterable[Sketch]) -> Sketch:
        """Adds values that were added apart."""
        parts = list(sketches)
        if any(part.sums for part in parts):
            return _merged_bins([_binned(part) for part in parts])
        merged = Sketch(*_added(parts))
        return merged if len(merged.values) <= MAX_DISTINCT else _binned(merged)

    def extract_output(self, sketch: Sketch) -> NumberStatistics:
        """The statistics; zeros with a variance of 0 for no value.

        A quantile is the smallest value with at least that share at or below it.
        """
        values, counts = sketch.values.astype(np.float64), sketch.counts
        total = int(counts.sum())
        if not total:
            return NumberStatistics(0, 0.0, 0.0, 0.0, 0.0, (0.0,) * len(QUANTILES))
        if sketch.sums:
            sums, squares, log_sums, log_squares = sketch.sums
            moments = [
                _exact_moments(sums, squares, total),
                _exact_moments(log_sums, log_squares, total),
            ]
        else:
            moments = [_moments(part, counts, total) for part in (values, _logs(values))]
        (mean, variance), (log_mean, log_variance) = moments
        ranks = np.maximum(np.ceil(np.array(QUANTILES) * total), 1)
        places = np.searchsorted(np.cumsum(counts), ranks)
        quantiles = tuple(values[places].tolist())
        return NumberStatistics(total, mean, variance, log_mean, log_variance, quantiles)


def exact_sum(values: np.ndarray, weights: np.ndarray) -> int:
    """The sum of values times weights, in units of `2**-SCALE_BITS`.

    A float is a whole number times a power of two, and whole numbers add up to the same in any
    order.

    Args:
        values: `[n]` finite float64.
        weights: `[n]` int64 from 0 on; their sum must be below 2**35.
    """
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, MANTISSA_BITS).astype(np.int64)
    # In two parts, as a mantissa times a weight would not fit 64 bits.
    high, low = mantissas >> LOW_BITS, mantissas & ((1 << LOW_BITS) - 1)
    distinct, places = np.unique(exponents, return_inverse=True)
    sums = np.zeros((2, len(distinct)), np.int64)
    for row, part in enumerate((high, low)):
        np.add.at(sums[row], places, part * weights)
    total = 0
    for exponent, above, below in zip(distinct.tolist(), *sums.tolist(), strict=True):
        total += ((above << LOW_BITS) + below) << (exponent - MANTISSA_BITS + SCALE_BITS)
    return total


def _logs(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _moments(values: np.ndarray, weights: np.ndarray, total: int) -> tuple[float, float]:
    """Mean and population variance; sums over sorted values, so in one order always."""
    mean = float((values * weights).sum() / total)
    return mean, float(((values - mean) ** 2 * weights).sum() / total)


def _exact_moments(values: int, squares: int, total: int) -> tuple[float, float]:
    mean = Fraction(values, total << SCALE_BITS)
    variance = Fraction(squares, total << SCALE_BITS) - mean**2
    # Not below 0: squares of logs are rounded to floats before they are added.
    return float(mean), max(float(variance), 0.0)


def _added(parts: list[Sketch]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values, ascending, and the sums of their counts."""
    values, places = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, places, np.concatenate([part.counts for part in parts]))
    return values, counts


def _binned(sketch: Sketch) -> Sketch:
    """Each value in the middle of all that share its leading bits."""
    if sketch.sums:
        return sketch
    wide = sketch.values.astype(np.float64)
    logs = _logs(wide)
    sums = [exact_sum(part, sketch.counts) for part in (wide, wide**2, logs, logs**2)]
    bits = np.ascontiguousarray(sketch.values).view(np.uint32)
    middles = ((bits & KEPT_BITS) | MIDDLE_BITS).view(np.float32)
    middles = np.where(sketch.values == 0, np.float32(0), middles)
    return Sketch(*_added([Sketch(middles, sketch.counts)]), sums)


def _merged_bins(parts: list[Sketch]) -> Sketch:
    sums = [sum(of_parts) for of_parts in zip(*(part.sums or [] for part in parts), strict=True)]
    return Sketch(*_added(parts), sums)

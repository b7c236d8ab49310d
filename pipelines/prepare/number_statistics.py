"""Statistics of numbers, from distinct values and their counts."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column
from tfrs_twotower.schema.prepared import NumberStatistics

VALUE, COUNT = "value", "count"
QUANTILES = tuple(tenth / 10 for tenth in range(11))


def count_values(values: pa.Array) -> pa.Table:
    """Distinct values of a column and how often each occurs; nulls do not count."""
    counted = pc.value_counts(pc.drop_null(values))
    return pa.table({VALUE: counted.field(0), COUNT: counted.field(1)})


def merge_counts(counts: pa.Table) -> pa.Table:
    """Adds the counts of equal values; sorted by value."""
    merged = counts.group_by(VALUE).aggregate([(COUNT, "sum")])
    merged = merged.rename_columns([VALUE, COUNT]).sort_by(VALUE)
    return merged.combine_chunks()


def number_statistics(counts: pa.Table) -> NumberStatistics:
    """Statistics of the values behind counts.

    Sums run over the sorted distinct values, so the result does not depend on how the data were
    cut. Quantiles are values that occur: the smallest with at least that share at or below it.

    Args:
        counts: As `merge_counts` gives them; may be empty.

    Returns:
        The statistics; zeros with a variance of 0 for no value.
    """
    values = column(counts, VALUE).to_numpy().astype(np.float64)
    weights = column(counts, COUNT).to_numpy()
    total = int(weights.sum())
    if not total:
        return NumberStatistics(0, 0.0, 0.0, 0.0, 0.0, (0.0,) * len(QUANTILES))
    logs = np.sign(values) * np.log1p(np.abs(values))
    mean, variance = _moments(values, weights, total)
    log_mean, log_variance = _moments(logs, weights, total)
    ranks = np.maximum(np.ceil(np.array(QUANTILES) * total), 1)
    places = np.searchsorted(np.cumsum(weights), ranks)
    quantiles = tuple(values[places].tolist())
    return NumberStatistics(total, mean, variance, log_mean, log_variance, quantiles)


def _moments(values: np.ndarray, weights: np.ndarray, total: int) -> tuple[float, float]:
    mean = float((values * weights).sum() / total)
    return mean, float(((values - mean) ** 2 * weights).sum() / total)

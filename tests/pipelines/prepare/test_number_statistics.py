"""Statistics of numbers: bounded, and the same however the values are cut and merged."""

import math
import random
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest

from pipelines.io.tables import to_ipc
from pipelines.prepare import number_statistics
from pipelines.prepare.number_statistics import (
    QUANTILE_ERROR,
    SCALE_BITS,
    DescribeNumbers,
    count_values,
    exact_sum,
)


def counted(values):
    return to_ipc(count_values(pa.array(values, pa.float32())))


def describe(*bundles):
    """Statistics of values that come in bundles of parts; each bundle is added up apart."""
    combine = DescribeNumbers()
    sketches = []
    for bundle in bundles:
        sketch = combine.create_accumulator()
        for part in bundle:
            sketch = combine.add_input(sketch, counted(part))
        sketches.append(sketch)
    return combine.extract_output(combine.merge_accumulators(sketches))


def test_statistics_leave_missing_values_out():
    statistics = describe([[1.0, None, 3.0], [3.0, -7.0]])

    # 1, 3, 3 and -7: mean 0; squares 1 + 9 + 9 + 49 = 68.
    assert (statistics.num_values, statistics.mean, statistics.variance) == (4, 0.0, 17.0)
    logs = [math.log(2), math.log(4), math.log(4), -math.log(8)]
    assert statistics.log_mean == pytest.approx(sum(logs) / 4)
    assert statistics.log_variance == pytest.approx(np.var(logs))
    assert statistics.quantiles == (-7, -7, -7, 1, 1, 1, 3, 3, 3, 3, 3)


def test_no_number_has_statistics_of_zero():
    assert describe([[]]) == (0, 0.0, 0.0, 0.0, 0.0, (0.0,) * 11)


@pytest.mark.parametrize("values", [[1e300, 1.0, -1e300], [5e-324, 2.5, -0.1], [0.1] * 10, [0.0]])
def test_a_sum_is_exact(values):
    weights = list(range(1, len(values) + 1))

    total = exact_sum(np.array(values), np.array(weights))

    expected = sum(Fraction(value) * weight for value, weight in zip(values, weights, strict=True))
    assert Fraction(total, 1 << SCALE_BITS) == expected


@pytest.mark.parametrize("max_distinct", [1 << 18, 50])
def test_the_order_and_the_cut_do_not_show(monkeypatch, max_distinct):
    monkeypatch.setattr(number_statistics, "MAX_DISTINCT", max_distinct)
    chance = random.Random(3)
    values = [chance.lognormvariate(0, 9) * chance.choice([-1, 1]) for _ in range(1000)]
    values += [0.0, -0.0] * 200
    whole = describe([values])

    for num_bundles in (2, 7):
        chance.shuffle(values)
        cuts = sorted(chance.sample(range(len(values)), 20))
        parts = [values[i:j] for i, j in zip([0, *cuts], [*cuts, len(values)], strict=True)]
        found = describe(*(parts[n::num_bundles] for n in range(num_bundles)))
        # As text: 0 and -0 are equal as numbers.
        assert repr(found) == repr(whole)


def test_quantiles_of_many_distinct_values_are_off_by_no_more_than_is_stated(monkeypatch):
    values = np.random.default_rng(1).normal(0, 1, 20_000).astype(np.float32) ** 3
    exact = describe([values])
    monkeypatch.setattr(number_statistics, "MAX_DISTINCT", 100)

    found = describe([values[:5_000]], [values[5_000:]])

    assert found.quantiles != exact.quantiles
    for quantile, true in zip(found.quantiles, exact.quantiles, strict=True):
        assert abs(quantile - true) <= QUANTILE_ERROR * abs(true)
    moments = ["num_values", "mean", "variance", "log_mean", "log_variance"]
    for name in moments:
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-12)


def test_memory_does_not_grow_with_the_distinct_values():
    draw = np.random.default_rng(2)
    combine = DescribeNumbers()
    sketch = combine.create_accumulator()
    for _ in range(4):
        sketch = combine.add_input(sketch, counted(draw.normal(0, 1, 100_000)))

    # Two signs, and the exponents and 7 bits that occur.
    assert len(sketch.values) < 2 * 40 * 128

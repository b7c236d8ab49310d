"""Intervals that cover the truth as often as they say, and tests that find what is there."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from tfrs_twotower.evaluation.intervals import bootstrap, paired_p_value


def each_its_own(count: int) -> np.ndarray:
    return np.arange(count)


def test_an_interval_of_a_mean_is_that_of_the_normal_distribution():
    # 400 values of standard deviation 2: standard error 0.1, hence mean +- 0.196.
    values = 5.0 + 2.0 * np.random.default_rng(0).standard_normal([400, 1])
    values += 5.0 - values.mean()
    values = 5.0 + (values - 5.0) * 2.0 / values.std()

    low, high = bootstrap(values, each_its_own(400), seed=1)[0]

    assert low == pytest.approx(5.0 - 0.196, abs=0.02)
    assert high == pytest.approx(5.0 + 0.196, abs=0.02)


def test_intervals_cover_the_true_mean_nineteen_times_of_twenty():
    generator = np.random.default_rng(2)
    samples = generator.exponential(size=[300, 80])  # True mean 1.

    covered = [
        low <= 1.0 <= high
        for sample in samples
        for low, high in bootstrap(sample[:, np.newaxis], each_its_own(80), seed=3)
    ]

    # Of 300, binomial at 0.95 has a standard deviation of 0.013; the percentile bootstrap of a
    # skewed sample of 80 is known to cover a little less.
    assert np.mean(covered) == pytest.approx(0.945, abs=0.035)


def test_events_of_one_user_are_not_independent_witnesses():
    values = np.repeat(np.random.default_rng(4).normal(size=30), 20)[:, np.newaxis]
    users = np.repeat(np.arange(30), 20)

    by_user = bootstrap(values, users, seed=5)[0]
    by_event = bootstrap(values, each_its_own(600), seed=5)[0]

    # The square root of the 20 equal events of a user.
    ratio = (by_user.high - by_user.low) / (by_event.high - by_event.low)
    assert ratio == pytest.approx(20**0.5, rel=0.15)


def test_a_user_of_many_events_counts_as_many_in_the_mean():
    values = np.array([[1.0]] * 9 + [[0.0]])
    users = np.array([0] * 9 + [1])

    low, high = bootstrap(values, users, seed=6)[0]

    assert (low, high) == (0.0, 1.0)  # Draws of two users: both the first, both the second, each.


def test_one_user_alone_gives_no_spread():
    assert bootstrap(np.array([[0.2], [0.4]]), np.array([7, 7]), seed=1)[0] == pytest.approx(
        (0.3, 0.3)
    )


def test_each_metric_has_its_interval_and_the_seed_decides_it():
    values = np.random.default_rng(7).random([50, 2]) + [0.0, 10.0]

    first, second = bootstrap(values, each_its_own(50), seed=8)
    again = bootstrap(values, each_its_own(50), seed=8)

    assert first.high < 1.0 < 10.0 < second.low
    assert again == [first, second]


# --- the paired test ------------------------------------------------------------------------


def test_no_difference_at_all_has_a_p_value_of_one():
    assert paired_p_value(np.zeros(50), each_its_own(50), seed=1) == 1.0


def test_a_planted_difference_is_found():
    differences = 0.3 + np.random.default_rng(1).normal(size=300)

    assert paired_p_value(differences, each_its_own(300), seed=1) < 0.001


def test_chance_is_called_a_difference_one_time_of_twenty():
    generator = np.random.default_rng(2)
    p_values = [
        paired_p_value(generator.normal(size=40), each_its_own(40), seed=seed)
        for seed in range(200)
    ]

    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(np.array(p_values) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_a_handful_of_users_gives_the_exact_share_of_sign_flips():
    # Sums of +-1 +-2 +-4: of the eight, 7 and -7 are as far from zero as the observed 7.
    p = paired_p_value(np.array([1.0, 2.0, 4.0]), each_its_own(3), seed=3)

    assert p == pytest.approx(2 / 8, abs=0.02)


def test_the_p_value_is_that_of_scipy():
    """SciPy enumerates all sign flips of so few users; events of a user are summed first."""
    generator = np.random.default_rng(9)
    of_users = generator.normal(0.4, 1.0, 12)
    clusters = np.repeat(np.arange(12), 3)
    events = generator.normal(0.0, 0.1, 36)
    events += ((of_users - np.bincount(clusters, events)) / 3)[clusters]

    exact = permutation_test(
        (of_users,), lambda sums, axis: sums.sum(axis), permutation_type="samples", n_resamples=5000
    ).pvalue

    assert 0.02 < exact < 0.9
    assert paired_p_value(events, clusters, seed=1) == pytest.approx(exact, abs=0.02)


def test_both_directions_count():
    differences = np.random.default_rng(4).normal(size=60) + 0.2

    assert paired_p_value(-differences, each_its_own(60), seed=5) == pytest.approx(
        paired_p_value(differences, each_its_own(60), seed=5), abs=0.02
    )


def test_many_events_of_one_user_are_one_witness():
    differences, one_user = np.ones(40), np.zeros(40, np.int64)

    assert paired_p_value(differences, each_its_own(40), seed=6) < 0.001
    assert paired_p_value(differences, one_user, seed=6) == pytest.approx(1.0)

"""The world's probabilities, on a world small enough to reckon with."""

import dataclasses

import numpy as np
import pytest

from tfrs_twotower.datasets import sample_world
from tfrs_twotower.datasets.sample_world import (
    DAY_S,
    END_S,
    START_S,
    Log,
    World,
    at_moment,
    oracle,
    with_drift,
)


@pytest.fixture
def world(monkeypatch):
    """Two users, four items: u likes its own direction; nothing but taste and popularity counts."""
    monkeypatch.setattr(sample_world, "NUM_QUERIES", 2)
    monkeypatch.setattr(sample_world, "NUM_CANDIDATES", 4)
    return World(
        genres=[["crime"]] * 4,
        languages=np.array(["es"] * 4),
        prices=np.array([1.0, 2.0, 3.0, 4.0]),
        candidate_latent=np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        vectors=np.zeros([4, 2], np.float32),
        popularity=np.array([0.1, 0.2, 0.3, 0.4]),
        available_from_s=np.full(4, START_S),
        hours=np.zeros(4),
        age_bands=np.array([4, 4]),  # who do not mind prices
        countries=np.array(["FR", "FR"]),
        query_latent=np.array([[1.0, 0.0], [0.0, 1.0]]),
        part_shares=np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]),
        joined_day=np.array([0, 0]),
        activity=np.array([0.5, 0.5]),
    )


def a_log(query_rows, candidate_rows, timestamps_s) -> Log:
    count = len(query_rows)
    return Log(
        np.array(query_rows, int),
        np.array(candidate_rows, int),
        np.array(timestamps_s, int),
        np.full(count, "view"),
        np.zeros(count, int),
    )


def test_taste_comes_first_and_popularity_second(world):
    best = oracle(world, a_log([], [], []), START_S, 4)

    np.testing.assert_array_equal(best, [[1, 0, 3, 2], [3, 2, 1, 0]])


def test_what_was_taken_before_comes_last(world):
    log = a_log([0, 1], [1, 3], [START_S + 5, START_S + 50])

    best = oracle(world, log, START_S + 10, 4)

    # User 1 took item 3 after the moment, which the oracle does not know.
    np.testing.assert_array_equal(best, [[0, 3, 2, 1], [3, 2, 1, 0]])


def test_what_is_on_sale_for_half_the_time_counts_half(world):
    # User 1: item 2 has 3/4 of the probability of item 3 while both are there.
    late = START_S + 45 * DAY_S
    world = dataclasses.replace(world, available_from_s=np.array([START_S, START_S, START_S, late]))

    best = oracle(world, a_log([], [], []), START_S, 4)

    np.testing.assert_array_equal(best[1], [2, 3, 1, 0])


def test_the_time_of_day_decides_for_a_user_of_the_morning(world):
    # Item 0 is of the morning: exp(0.7) times likelier, item 1 as much less; 2 : 1 without.
    world = dataclasses.replace(world, hours=np.array([1.0, -1.0, 0.0, 0.0]))

    best = oracle(world, a_log([], [], []), START_S, 2)

    np.testing.assert_array_equal(best[0], [0, 1])


def test_candidates_are_drawn_as_often_as_their_probability_says():
    probabilities = np.array([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    rng = np.random.default_rng(7)

    drawn = sample_world._draw(
        sample_world._lifted(probabilities), 3, np.repeat([0, 1], 10_000), rng
    )

    # Standard deviations of the shares are below 0.005.
    shares = [np.bincount(half, minlength=3) / 10_000 for half in np.split(drawn, 2)]
    np.testing.assert_allclose(shares, probabilities, atol=0.02)


def test_without_drift_every_moment_is_the_same(world):
    assert at_moment(world, START_S + 40 * DAY_S) is world


def test_tastes_move_on_a_straight_line(world):
    turned = dataclasses.replace(world, later_latent=world.query_latent[::-1])

    half_way = at_moment(turned, (START_S + END_S) / 2)

    np.testing.assert_allclose(half_way.query_latent, np.full([2, 2], np.sqrt(0.5)))
    end = at_moment(turned, END_S)
    np.testing.assert_allclose(end.query_latent, world.query_latent[::-1], atol=1e-12)


def test_popularity_wears_off_down_to_a_rest(world):
    later = START_S + 15 * DAY_S
    available_s = np.array([later, START_S, START_S - 1_000 * DAY_S, later + DAY_S])
    drifting = dataclasses.replace(
        world, later_latent=world.query_latent, available_from_s=available_s
    )

    popularity = at_moment(drifting, later).popularity

    # Fresh; half of what wears off after a half-life; the rest alone; to come.
    expected = np.array([0.1 * 1.0, 0.2 * (0.05 + 0.95 / 2), 0.3 * 0.05, 0.4 * 1.0])
    np.testing.assert_allclose(popularity, expected / expected.sum())


def test_more_items_come_during_a_log_that_drifts(world, monkeypatch):
    monkeypatch.setattr(sample_world, "NUM_CANDIDATES", 1000)
    many = dataclasses.replace(world, available_from_s=np.full(1000, START_S - DAY_S))

    coming_s = with_drift(many, np.random.default_rng(1)).available_from_s

    comes = coming_s >= START_S
    assert 0.55 < comes.mean() < 0.65
    assert coming_s.max() < END_S

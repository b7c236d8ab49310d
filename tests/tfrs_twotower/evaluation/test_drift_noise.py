"""Distances by hand; alarms between samples of one population as rarely as stated."""

import numpy as np
import pytest

from tfrs_twotower.evaluation import drift_noise
from tfrs_twotower.evaluation.drift_noise import (
    Counts,
    Measure,
    compare,
    with_rare_cells_merged,
)

NUM_GROUPS, NUM_USERS = 64, 400


def counted(groups: np.ndarray, cells: np.ndarray, num_cells: int) -> Counts:
    counts = np.bincount(groups * num_cells + cells, minlength=NUM_GROUPS * num_cells)
    return counts.reshape(NUM_GROUPS, 1, num_cells)


def by_group(*rows: list[int]) -> Counts:
    """Counts of one distribution, the same in every group."""
    return np.array([rows] * NUM_GROUPS)


# --- distances ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        # Shares 0.5 0.3 0.2 and 0.2 0.3 0.5: 0.3 would have to move.
        pytest.param("total_variation", 0.3, id="total-variation"),
        # Cumulative 0.5 0.8 1 and 0.2 0.5 1.
        pytest.param("kolmogorov_smirnov", 0.3, id="kolmogorov-smirnov"),
        # The last cell grows from 0.2 to 0.5.
        pytest.param("increase", 0.3, id="increase"),
    ],
)
def test_distances(distance, expected):
    measure = Measure("x", "values", distance, by_group([5, 3, 2]), by_group([2, 3, 5]))

    [found] = compare([measure], level=0.05, seed=1)

    assert found.distance == pytest.approx(expected)


def test_a_decrease_is_no_increase():
    measure = Measure("x", "unknown", "increase", by_group([2, 8]), by_group([8, 2]))

    [found] = compare([measure], level=0.05, seed=1)

    assert (found.distance, found.a, found.b) == (0.0, 0.8, 0.2)
    assert not found.is_drift


def test_of_several_distributions_the_largest_distance_counts():
    a, b = by_group([5, 5], [5, 5]), by_group([5, 5], [1, 9])

    [found] = compare([Measure("x", "values", "total_variation", a, b)], level=0.05, seed=1)

    assert found.distance == pytest.approx(0.4)


def test_rare_cells_are_merged_by_the_counts_of_both():
    a = np.array([[[1, 12, 9, 0]]])
    b = np.array([[[0, 12, 9, 19]]])
    names = (("other", "often", "rare", "new"),)

    merged = with_rare_cells_merged(Measure("x", "values", "total_variation", a, b, names))

    # 24 events of the second cell are enough, 18 and 19 of the others are not.
    assert merged.a.tolist() == [[[10, 12]]]
    assert merged.b.tolist() == [[[28, 12]]]
    assert merged.cells == (("other", "often"),)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("total_variation", "c: 20.0% to 60.0%"),
        # Up to b: 0.5 + 0.3 and 0.3 + 0.1.
        ("kolmogorov_smirnov", "b: 80.0% to 40.0%"),
    ],
)
def test_where_two_distributions_differ_most_is_told(distance, expected):
    a, b = by_group([5, 3, 2]), by_group([3, 1, 6])

    [found] = compare(
        [Measure("x", "values", distance, a, b, (("a", "b", "c"),))], level=0.05, seed=1
    )

    assert found.largest == expected


# --- noise ----------------------------------------------------------------------------------


class World:
    """Users who each have their own taste: their events are not independent."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self._draw = draw
        lengths = draw.geometric(0.15, NUM_USERS)
        self.users = np.repeat(np.arange(NUM_USERS), lengths)
        tastes = draw.dirichlet(np.full(30, 0.3), NUM_USERS)
        self.items = np.array([draw.choice(30, p=tastes[user]) for user in self.users])
        self.ages = np.digitize(draw.normal(0, 1, NUM_USERS), np.linspace(-2, 2, 19))[self.users]
        self.is_missing = (draw.random(NUM_USERS) < 0.02)[self.users].astype(int)
        self.groups = draw.integers(NUM_GROUPS, size=NUM_USERS)[self.users]

    def halves(self, by: str, share: float = 0.5) -> np.ndarray:
        """Whether each event is in the second half."""
        if by == "user":
            return (self._draw.random(NUM_USERS) < share)[self.users]
        return self._draw.random(len(self.users)) < share

    def measures(self, is_second: np.ndarray) -> list[Measure]:
        def of(cells: np.ndarray, num_cells: int) -> tuple[Counts, Counts]:
            return tuple(
                counted(self.groups[part], cells[part], num_cells)
                for part in (~is_second, is_second)
            )

        return [
            Measure("item", "values", "total_variation", *of(self.items, 30)),
            Measure("age", "values", "kolmogorov_smirnov", *of(self.ages, 20)),
            Measure("age", "missing", "total_variation", *of(self.is_missing, 2)),
        ]


@pytest.mark.parametrize(
    ("by", "share"),
    [
        pytest.param("user", 0.5, id="halves-of-the-users"),
        pytest.param("event", 0.5, id="halves-of-the-events", marks=pytest.mark.slow),
        pytest.param("user", 0.2, id="unequal-parts", marks=pytest.mark.slow),
    ],
)
def test_between_two_parts_of_one_sample_alarms_are_as_rare_as_stated(by, share, monkeypatch):
    monkeypatch.setattr(drift_noise, "NUM_RESAMPLES", 200)
    world = World(5)
    found = [
        compare(world.measures(world.halves(by, share)), level=0.05, seed=seed)
        for seed in range(100)
    ]

    alarms = sum(any(one.is_drift for one in differences) for differences in found)
    # More than 11 of 100 at a level of 0.05 happen once in 230 times.
    assert alarms <= 11


@pytest.mark.parametrize("what", ["item", "age", "missing"])
def test_a_planted_drift_is_found_and_nothing_else(what):
    world = World(3)
    is_second = world.halves("user")
    moved = is_second & (world.users % 3 == 0)
    if what == "item":
        world.items[moved] = 0
    elif what == "age":
        world.ages[moved] = 0
    else:
        world.is_missing[moved] = 1

    found = compare(world.measures(is_second), level=0.05, seed=1)

    drifting = {"missing" if one.what == "missing" else one.name for one in found if one.is_drift}
    assert drifting == {what}


def test_of_few_users_nothing_is_said():
    a, b = by_group([9, 1]), by_group([1, 9])
    a[19:], b[19:] = 0, 0

    [found] = compare([Measure("x", "values", "total_variation", a, b)], level=0.05, seed=1)

    assert found.distance == pytest.approx(0.8)
    assert found.noise is None
    assert not found.is_drift


def test_a_sample_without_a_value_has_no_distance():
    measures = [
        Measure("x", "values", "total_variation", by_group([9, 1]), by_group([0, 0])),
        Measure("y", "values", "total_variation", by_group([9, 1]), by_group([9, 1])),
    ]

    empty, same = compare(measures, level=0.05, seed=1)

    assert (empty.distance, empty.noise, empty.is_drift) == (None, None, False)
    assert (same.distance, same.is_drift) == (0.0, False)

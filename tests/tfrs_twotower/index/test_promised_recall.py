"""A promised recall holds for queries that had no part in choosing the parameters."""

import numpy as np
import pytest

from tests.tfrs_twotower.index.clustered import (
    AT,
    CANDIDATES,
    OTHER_QUERIES,
    QUERIES,
    clustered,
)
from tfrs_twotower.index import (
    IvfIndex,
    IvfParameters,
    measure_recall,
    promise_recall,
    split_queries,
    tune,
    tune_ivf,
)
from tfrs_twotower.index import promised_recall as promised_module
from tfrs_twotower.index import tuning as tuning_module
from tfrs_twotower.index.promised_recall import last_confirmed
from tfrs_twotower.index.recall import (
    exact_scores,
    found_share,
    least_queries,
    recall_lower_bound,
)
from tfrs_twotower.index.tuning import trial_search
from tfrs_twotower.schema import UserError

TARGET = 0.9


class TestSplit:
    def test_the_parts_are_disjoint_and_hold_every_query(self):
        tuning, others = split_queries(QUERIES, TARGET)

        parts = [{row.tobytes() for row in part} for part in (tuning, others)]
        assert [len(part) for part in parts] == [150, 150]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == {row.tobytes() for row in QUERIES}

    def test_it_does_not_depend_on_the_order_of_the_queries(self):
        tuning, others = split_queries(QUERIES, TARGET)
        backwards = split_queries(QUERIES[::-1], TARGET)

        np.testing.assert_array_equal(backwards[0], tuning)
        np.testing.assert_array_equal(backwards[1], others)

    def test_of_an_odd_number_the_one_more_confirms(self):
        tuning, others = split_queries(QUERIES[:99], TARGET)

        assert (len(tuning), len(others)) == (49, 50)

    @pytest.mark.parametrize("target", [0.9, 0.95])
    def test_too_few_queries_are_refused_with_the_number_that_is_needed(self, target):
        least = 2 * least_queries(target)

        assert len(split_queries(QUERIES[:least], target)[0]) == least // 2
        message = f"at least {least} held-out queries, .* there are {least - 1}: validate"
        with pytest.raises(UserError, match=message):
            split_queries(QUERIES[: least - 1], target)


class TestSequence:
    def test_ends_with_the_last_setting_that_passed(self):
        recalls = {3: 1.0, 2: 0.97, 1: 0.5, 0: 1.0}
        tested = []

        def shares_of(number: int) -> np.ndarray:
            tested.append(number)
            return np.full(200, recalls[number])

        number, shares = last_confirmed(shares_of, 4, TARGET)

        assert (number, shares.mean()) == (2, pytest.approx(0.97))
        # What comes after the first failure is not looked at, though it would pass.
        assert tested == [3, 2, 1]

    def test_finds_none_where_the_dearest_fails(self):
        assert last_confirmed(lambda number: np.full(200, 0.5), 3, TARGET) is None


class TestPlanted:
    """Settings whose recall is a hair below the target: any promise of it is false.

    A query finds all or nothing, anew for every setting, as of settings that differ.
    """

    REPETITIONS, NUM_SETTINGS, NUM_QUERIES = 400, 20, 500

    def shares(self, seed: int, recalls: np.ndarray) -> np.ndarray:
        """`[repetitions, settings, queries]` with these means."""
        shape = (self.REPETITIONS, len(recalls), self.NUM_QUERIES)
        found = np.random.default_rng(seed).random(shape) < recalls[:, np.newaxis]
        return found.astype(np.float64)

    def below(self, seed: int) -> np.ndarray:
        return self.shares(seed, np.full(self.NUM_SETTINGS, TARGET - 0.001))

    def chosen(self, shares: np.ndarray) -> int | None:
        """The first, which is the cheapest, that reaches the target."""
        bounds = [recall_lower_bound(of_setting) for of_setting in shares]
        return next((n for n, bound in enumerate(bounds) if bound >= TARGET), None)

    def test_choosing_and_promising_on_the_same_queries_promises_too_much(self):
        promised = [self.chosen(shares) is not None for shares in self.below(0)]

        assert np.mean(promised) > 0.3

    def test_promising_on_other_queries_does_not(self):
        num_promised = 0
        for tuning, others in zip(self.below(0), self.below(1), strict=True):
            chosen = self.chosen(tuning)
            if chosen is not None:
                ladder = others[chosen:]
                confirmed = last_confirmed(ladder.__getitem__, len(ladder), TARGET)
                num_promised += confirmed is not None

        assert 0 < num_promised < 0.05 * self.REPETITIONS

    def test_a_ladder_across_the_target_ends_below_it_in_one_of_twenty_at_most(self):
        recalls = np.array([0.87, 0.885, 0.899, 0.91, 0.92, 0.93, 0.94, 0.95])
        ends = []
        for shares in self.shares(2, recalls):
            confirmed = last_confirmed(shares.__getitem__, len(recalls), TARGET)
            ends.append(None if confirmed is None else recalls[confirmed[0]])

        found = [end for end in ends if end is not None]
        assert len(found) > 0.9 * self.REPETITIONS
        assert 0 < sum(end < TARGET for end in found) < 0.05 * self.REPETITIONS


@pytest.fixture(scope="module")
def promised():
    tuning_queries, others = split_queries(QUERIES, TARGET)
    index, tuning = tune(CANDIDATES, tuning_queries, target_recall=TARGET, at=AT)
    return index, tuning, promise_recall(index, tuning, others)


def test_the_promise_names_the_target_and_both_numbers_of_queries(promised):
    _, _, recall = promised

    assert (recall.lower_bound, recall.at) == (TARGET, AT)
    assert (recall.num_queries, recall.num_tuning_queries) == (150, 150)
    assert recall.mean >= TARGET


def test_the_index_searches_by_a_setting_of_the_ladder(promised):
    index, tuning, _ = promised

    assert index.parameters in tuning.ladder


def test_the_promise_is_kept_for_queries_that_nothing_has_seen(promised):
    index, _, _ = promised

    # Half a standard deviation of such a mean is below 0.01.
    assert measure_recall(index, OTHER_QUERIES, AT).mean > TARGET - 0.01


def test_a_promise_that_cannot_be_kept_is_refused(promised):
    """Noise has neighbours everywhere: what suits clustered queries finds little of theirs."""
    index, tuning, _ = promised
    noise = np.random.default_rng(5).normal(size=(60, CANDIDATES.shape[1])).astype(np.float32)
    hopeless = tuning._replace(ladder=tuning.ladder[:1], target_recall=0.999)

    with pytest.raises(
        UserError, match=r"is reached on the 150 .* but not with 95% .* on 60 other"
    ):
        promise_recall(index, hopeless, noise)


@pytest.mark.slow
def test_of_a_hundred_promises_at_least_93_hold(monkeypatch):
    """Each is made by 500 queries drawn anew, and compared with the recall of all 8,000.

    The target is a hair above what one of the settings reaches, which is the hardest case. The
    index is built once, and what it finds for all queries with each number of leaves is looked
    up: tuning and confirming are the code's own.
    """
    population = clustered(8000, seed=3, spread=1.0)
    row_of = {query.tobytes(): row for row, query in enumerate(population)}
    index = IvfIndex(CANDIDATES, IvfParameters.for_corpus(len(CANDIDATES), at=AT))
    worst = exact_scores(index, population, AT)
    search = trial_search(index)
    scores_by_leaves: dict[int, np.ndarray] = {}

    def scores_of(leaves: int) -> np.ndarray:
        if leaves not in scores_by_leaves:
            scores_by_leaves[leaves] = search(population, AT, leaves)
        return scores_by_leaves[leaves]

    def rows_of(queries: np.ndarray) -> list[int]:
        return [row_of[query.tobytes()] for query in queries]

    for module in (tuning_module, promised_module):
        monkeypatch.setattr(module, "exact_scores", lambda index, some, at: worst[rows_of(some)])
        monkeypatch.setattr(
            module,
            "trial_search",
            lambda index: lambda some, at, leaves: scores_of(leaves)[rows_of(some)],
        )
    monkeypatch.setattr(tuning_module, "IvfIndex", lambda *built: index)

    def recall_of(leaves: int) -> float:
        return float(found_share(scores_of(leaves), worst).mean())

    # Of the numbers of leaves that tuning tries.
    target = max(r for r in map(recall_of, (6, 8, 10, 12, 15)) if r < 0.93) + 0.002
    recalls = []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        drawn = population[draw.choice(len(population), 500, replace=False)]
        tuning_queries, others = split_queries(drawn, target)
        _, tuning = tune_ivf(CANDIDATES, tuning_queries, target_recall=target, at=AT)
        promise_recall(index, tuning, others)
        recalls.append(recall_of(index.parameters.leaves_to_search))

    assert sum(recall >= target for recall in recalls) >= 93
    # Nor is it kept by searching everything.
    assert np.median(recalls) < target + 0.05

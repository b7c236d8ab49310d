"""The cheapest setting that reaches a recall on the queries that it is tuned on."""

import functools
import weakref

import pytest

from tests.tfrs_twotower.index.clustered import AT, CANDIDATES, QUERIES
from tfrs_twotower.index import IndexParameters, ScannIndex, Trial, Tuning, tune
from tfrs_twotower.index import tuning as tuning_module
from tfrs_twotower.index.tuning import cheapest_by_halving
from tfrs_twotower.schema import UserError


@functools.cache
def tuned(target: float, **fixed: int) -> tuple[ScannIndex, Tuning]:
    return tune(CANDIDATES, QUERIES, target_recall=target, at=AT, **fixed)


def setting(leaves: int, reorder: int = 10) -> IndexParameters:
    return IndexParameters(num_leaves=100, leaves_to_search=leaves, reorder=reorder)


def test_halving_finds_the_first_setting_of_a_row_that_reaches_the_target():
    row = [setting(leaves) for leaves in range(1, 65)]

    def measure(parameters: IndexParameters) -> Trial:
        share = parameters.leaves_to_search / 64
        return Trial(parameters, share, share, parameters.leaves_to_search, 0.0)

    trials = [*cheapest_by_halving([row], measure, lambda one: one.leaves_to_search, 0.6)]

    reached = [trial.parameters.leaves_to_search for trial in trials if trial.lower_bound >= 0.6]
    assert reached[-1] == min(reached) == 39  # 38 / 64 is 0.594.
    assert len(trials) <= 7


def test_halving_tries_only_what_costs_less_than_what_is_known():
    rows = [[setting(leaves, reorder) for leaves in (1, 2, 3)] for reorder in (10, 20)]
    tried = []

    def measure(parameters: IndexParameters) -> Trial:
        tried.append(parameters)
        return Trial(parameters, 1.0, 1.0, parameters.reorder + parameters.leaves_to_search, 0.0)

    [*_] = cheapest_by_halving(rows, measure, lambda one: one.reorder + one.leaves_to_search, 0.9)

    # 11 is the cheapest of the first row; every setting of the second costs more.
    assert {parameters.reorder for parameters in tried} == {10}


def test_no_setting_that_was_tried_meets_the_target_for_less():
    index, tuning = tuned(0.95)

    assert tuning.chosen.lower_bound >= 0.95
    cheaper = [t for t in tuning.trials if t.cost_bytes < tuning.chosen.cost_bytes]
    assert cheaper
    assert all(trial.lower_bound < 0.95 for trial in cheaper)
    assert index.parameters == tuning.chosen.parameters


def test_more_recall_costs_more():
    assert tuned(0.8)[1].chosen.cost_bytes < tuned(0.95)[1].chosen.cost_bytes


@pytest.mark.slow
def test_tuning_twice_chooses_the_same():
    _, first = tuned(0.8)
    _, again = tune(CANDIDATES, QUERIES, target_recall=0.8, at=AT)

    assert again.chosen.parameters == first.chosen.parameters
    assert [t.parameters for t in again.trials] == [t.parameters for t in first.trials]


def test_while_a_tree_is_built_only_the_best_one_so_far_is_in_memory(monkeypatch):
    alive, num_alive, num_released = weakref.WeakSet(), [], []

    class Counted(ScannIndex):
        def __init__(self, *arguments):
            num_alive.append(len(alive))
            super().__init__(*arguments)
            alive.add(self)

        def release(self):
            num_released.append(len(num_alive))
            super().release()

    monkeypatch.setattr(tuning_module, "ScannIndex", Counted)

    found, _ = tune(CANDIDATES, QUERIES, target_recall=0.9, at=AT)

    # Of four trees three are worse than another one.
    assert len(num_alive) == 4
    assert max(num_alive) == 1
    assert len(num_released) == 3
    assert list(alive) == [found]


def test_what_the_config_fixes_is_not_searched():
    _, tuning = tuned(0.8, num_leaves=40, dimensions_per_block=2, reorder=60)

    tried = [trial.parameters for trial in tuning.trials] + tuning.ladder
    assert {(p.num_leaves, p.dimensions_per_block, p.reorder) for p in tried} == {(40, 2, 60)}


def test_the_ladder_begins_with_what_was_chosen_and_gets_dearer():
    _, tuning = tuned(0.95)
    costs = [one.cost_bytes(*CANDIDATES.shape) for one in tuning.ladder]

    assert tuning.ladder[0] == tuning.chosen.parameters
    assert len(tuning.ladder) > 3
    assert costs == sorted(set(costs))


@pytest.mark.slow
def test_a_target_that_cannot_be_met_says_how_far_it_went():
    with pytest.raises(UserError, match=r"recall 0.99 at 20 cannot be met: .* reached is 0\.\d+"):
        tune(CANDIDATES, QUERIES, target_recall=0.99, at=AT, leaves_to_search=1)


@pytest.mark.parametrize("target", [0.0, 1.0, 95.0])
def test_a_target_that_makes_no_sense_is_refused(target):
    with pytest.raises(ValueError, match="between 0 and 1"):
        tune(CANDIDATES, QUERIES, target_recall=target)


@pytest.mark.slow
def test_a_handful_of_queries_proves_no_recall():
    with pytest.raises(UserError, match="on 10 held-out queries"):
        tune(CANDIDATES, QUERIES[:10], target_recall=0.95, at=AT)


def test_the_table_is_plain_json():
    _, tuning = tuned(0.8)

    table = tuning.as_dict()

    assert table["chosen"] in table["trials"]
    assert table["trials"][0].keys() >= {"num_leaves", "recall", "at_least", "latency_ms"}

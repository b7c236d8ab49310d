"""The cheapest setting that meets a recall, and what its recall is worth."""

import functools

import numpy as np
import pytest

from tfrs_twotower.index.scann import Measures, ScannIndex
from tfrs_twotower.index.tuning import (
    Tuning,
    at_least,
    cost_bytes,
    exact_scores,
    found_share,
    measured_recall,
    tune,
)
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.index import Index

SIZE, DIMENSION, AT = 3000, 16, 20


def clustered(num_rows: int, seed: int, spread: float) -> np.ndarray:
    """Unit vectors around fifty fixed centres."""
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, DIMENSION))
    rows = centres[draw.integers(0, 50, num_rows)] + spread * draw.normal(
        size=(num_rows, DIMENSION)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


CANDIDATES = clustered(SIZE, seed=0, spread=0.5)
QUERIES = clustered(300, seed=1, spread=1.0)


@functools.cache
def tuned(target: float, **fixed: int) -> tuple[ScannIndex, Tuning]:
    config = Index(brute_force_below=0, target_recall=target, at=AT, **fixed)
    return tune(CANDIDATES, QUERIES, config)


def exact_top(queries: np.ndarray) -> list[set[int]]:
    order = np.argsort(-(queries.astype(np.float64) @ CANDIDATES.T.astype(np.float64)), axis=1)
    return [set(row[:AT].tolist()) for row in order]


class TestBound:
    def test_of_many_good_queries_is_a_little_below_their_mean(self):
        # 99 ones and the imaginary zero: mean 0.99, standard deviation 0.1 (of a sample).
        assert at_least(np.ones(99)) == pytest.approx(0.99 - 1.6449 * 0.1 / 10, abs=1e-6)

    def test_of_few_good_queries_is_low(self):
        # Five ones and a zero: mean 5/6, standard deviation sqrt(1/6).
        assert at_least(np.ones(5)) == pytest.approx(5 / 6 - 1.6449 / 6, abs=1e-6)

    def test_is_never_negative(self):
        assert at_least(np.zeros(3)) == 0.0

    def test_holds_in_nineteen_samples_of_twenty(self):
        draw = np.random.default_rng(0)
        samples = draw.beta(9, 1, size=(2000, 100))  # Mean 0.9.

        held = np.mean([at_least(sample) <= 0.9 for sample in samples])

        assert held > 0.95


def test_a_candidate_as_good_as_the_last_of_the_exact_answer_counts_as_found():
    scores = np.array([[0.9, 0.5, 0.5], [0.9, 0.4, 0.3]], np.float32)

    assert found_share(scores, np.array([0.5, 0.4], np.float32)).tolist() == [1.0, 2 / 3]


def test_cost_is_what_a_query_reads():
    measures = Measures(num_leaves=10, dimensions_per_block=2, leaves_to_search=5, reorder=20)

    # 10 centres of 32 bytes, by half; half of 1,000 codes of 2 bytes; 20 rows of 32 bytes, sixfold.
    assert cost_bytes(measures, 1000, 8) == 320 / 2 + 1000 + 6 * 640


def test_the_worst_exact_score_is_that_of_argsort():
    worst = exact_scores(ScannIndex(CANDIDATES, Index()), QUERIES[:5], AT)

    scores = np.sort(QUERIES[:5] @ CANDIDATES.T, axis=1)
    np.testing.assert_allclose(worst, scores[:, -AT], atol=1e-6)


@pytest.mark.parametrize("target", [0.8, 0.95])
def test_the_target_is_met_on_queries_that_tuning_has_not_seen(target):
    index, _ = tuned(target)
    others = clustered(400, seed=2, spread=1.0)

    recall = measured_recall(index, others, AT)

    # Half a standard deviation of such a mean is below 0.01.
    assert recall.mean > target - 0.01
    assert (recall.at, recall.num_queries) == (AT, 400)


def test_measured_recall_is_the_share_of_the_exact_answer():
    index, _ = tuned(0.8)
    rows = index.search(QUERIES, AT)[0].numpy()

    recall = measured_recall(index, QUERIES, AT)

    shares = [
        len(set(found) & exact) / AT
        for found, exact in zip(rows.tolist(), exact_top(QUERIES), strict=True)
    ]
    assert recall.mean == pytest.approx(np.mean(shares))


def test_no_setting_that_was_tried_meets_the_target_for_less():
    index, tuning = tuned(0.95)

    assert tuning.chosen.at_least >= 0.95
    cheaper = [t for t in tuning.trials if t.cost_bytes < tuning.chosen.cost_bytes]
    assert cheaper
    assert all(trial.at_least < 0.95 for trial in cheaper)
    assert index.parameters.items() >= tuning.chosen.measures._asdict().items()


def test_more_recall_costs_more():
    assert tuned(0.8)[1].chosen.cost_bytes < tuned(0.95)[1].chosen.cost_bytes


@pytest.mark.slow
def test_tuning_twice_chooses_the_same():
    _, first = tuned(0.8)
    _, again = tune(CANDIDATES, QUERIES, Index(brute_force_below=0, target_recall=0.8, at=AT))

    assert again.chosen.measures == first.chosen.measures
    assert [t.measures for t in again.trials] == [t.measures for t in first.trials]


def test_what_the_config_fixes_is_not_searched():
    _, tuning = tuned(0.8, num_leaves=40, dimensions_per_block=2, reorder=60)

    assert {t.measures[:2] + t.measures[3:] for t in tuning.trials} == {(40, 2, 60)}


@pytest.mark.slow
def test_a_target_that_cannot_be_met_says_how_far_it_went():
    config = Index(brute_force_below=0, target_recall=0.99, at=AT, leaves_to_search=1)

    with pytest.raises(UserError, match=r"recall 0.99 at 20 cannot be met: .* reached is 0\.\d+"):
        tune(CANDIDATES, QUERIES, config)


@pytest.mark.slow
def test_a_handful_of_queries_proves_no_recall():
    with pytest.raises(UserError, match="on 10 held-out queries"):
        tune(CANDIDATES, QUERIES[:10], Index(brute_force_below=0, target_recall=0.95, at=AT))


def test_the_table_is_plain_json():
    _, tuning = tuned(0.8)

    table = tuning.as_dict()

    assert table["chosen"] in table["trials"]
    assert table["trials"][0].keys() >= {"num_leaves", "recall", "at_least", "latency_ms"}

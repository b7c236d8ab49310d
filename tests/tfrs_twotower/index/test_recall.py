"""The recall of an index, and what a bound of it is worth."""

import numpy as np
import pytest

from tests.tfrs_twotower.index.clustered import AT, CANDIDATES, QUERIES
from tfrs_twotower.index import IndexParameters, Recall, ScannIndex, measure_recall
from tfrs_twotower.index import recall as recall_module
from tfrs_twotower.index.recall import (
    exact_scores,
    found_share,
    least_queries,
    recall_lower_bound,
)


class TestBound:
    def test_of_many_good_queries_is_a_little_below_their_mean(self):
        # 99 ones and the imaginary zero: mean 0.99, standard deviation 0.1 (of a sample).
        assert recall_lower_bound(np.ones(99)) == pytest.approx(0.99 - 1.6449 * 0.1 / 10, abs=1e-6)

    def test_of_few_good_queries_is_low(self):
        # Five ones and a zero: mean 5/6, standard deviation sqrt(1/6).
        assert recall_lower_bound(np.ones(5)) == pytest.approx(5 / 6 - 1.6449 / 6, abs=1e-6)

    def test_is_never_negative(self):
        assert recall_lower_bound(np.zeros(3)) == 0.0

    def test_holds_in_nineteen_samples_of_twenty(self):
        draw = np.random.default_rng(0)
        samples = draw.beta(9, 1, size=(2000, 100))  # Mean 0.9.

        held = np.mean([recall_lower_bound(sample) <= 0.9 for sample in samples])

        assert held > 0.95

    @pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 0.99])
    def test_reaches_a_target_on_the_least_queries_and_not_on_one_less(self, target):
        least = least_queries(target)

        assert recall_lower_bound(np.ones(least)) >= target
        assert recall_lower_bound(np.ones(least - 1)) < target


def test_a_candidate_as_good_as_the_last_of_the_exact_answer_counts_as_found():
    scores = np.array([[0.9, 0.5, 0.5], [0.9, 0.4, 0.3]], np.float32)

    assert found_share(scores, np.array([0.5, 0.4], np.float32)).tolist() == [1.0, 2 / 3]


@pytest.mark.parametrize("elements", [1, 1495, 16_000_000])
def test_the_worst_exact_score_is_that_of_argsort(elements, monkeypatch):
    # Blocks of `AT` candidates, of 299, the last of them of 10, and the whole corpus.
    monkeypatch.setattr(recall_module, "CHUNK_ELEMENTS", elements)
    worst = exact_scores(ScannIndex(CANDIDATES), QUERIES[:5], AT)

    scores = np.sort(QUERIES[:5] @ CANDIDATES.T, axis=1)
    np.testing.assert_allclose(worst, scores[:, -AT], atol=1e-6)


def test_measured_recall_is_the_share_of_the_exact_answer():
    index = ScannIndex(CANDIDATES, IndexParameters(num_leaves=50, leaves_to_search=5, reorder=40))
    rows = index.search(QUERIES, AT)[0].numpy()
    order = np.argsort(-(QUERIES.astype(np.float64) @ CANDIDATES.T.astype(np.float64)), axis=1)

    recall = measure_recall(index, QUERIES, AT)

    shares = [
        len(set(found) & set(exact)) / AT
        for found, exact in zip(rows.tolist(), order[:, :AT].tolist(), strict=True)
    ]
    assert recall.mean == pytest.approx(np.mean(shares))
    assert 0.5 < recall.lower_bound < recall.mean < 1.0
    assert (recall.at, recall.num_queries, recall.num_tuning_queries) == (AT, 300, 0)


def test_a_manifest_calls_the_lower_bound_as_it_always_did():
    recall = Recall(0.97, 0.95, 100, 500, 499).as_dict()

    assert recall == {
        "mean": 0.97,
        "at_least": 0.95,
        "at": 100,
        "num_queries": 500,
        "num_tuning_queries": 499,
    }

"""At which stage relevant candidates are lost, with a loss planted at each."""

import numpy as np
import pytest

from tfrs_twotower.evaluation.attribution import Attribution, attribute, exported_index
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError, UserError

NOTHING = Pairs(*np.zeros([2, 0], np.int64))


def pairs(*given: tuple[int, int]) -> Pairs:
    queries, rows = np.array(given, np.int64).reshape(-1, 2).T
    return Pairs(queries, rows)


def test_each_relevant_candidate_is_lost_at_one_stage_or_found():
    positives = pairs((0, 3), (0, 5), (1, 5), (1, 7), (1, 9))
    evaluation_set = EvaluationSet({}, np.arange(2), positives, NOTHING, num_known=6)
    # Exact search has 3 and 5 of query 0, 7 and 9 of query 1 among the first two.
    exact = Ranking(np.array([1, 2, 3, 2, 1]), np.zeros([2, 0], np.int64))
    # The index lost 5; the rules of the request took 9.
    found, ruled = np.array([[3, 8], [9, 7]]), np.array([[3, 8], [7, -1]])

    attribution = attribute(exact, found, ruled, evaluation_set)

    assert attribution == Attribution(
        k=2, found=2, missed_by_model=1, missed_by_index=1, missed_by_rule=6 + 1
    )
    assert attribution.total == 11


@pytest.mark.slow
def test_an_evaluation_with_models_tells_the_stages_apart(tiny_run, models):
    evaluation = evaluate(*tiny_run, split="validation", models=models)

    for row in evaluation.details["attribution"]:
        assert row["missed_by_index"] == 0  # So small a corpus is searched whole.
        assert row["found"] + row["missed_by_model"] == evaluation.num_positives
        recall = evaluation.systems["model"]["all"][f"recall_at_{row['k']}"]
        assert row["found"] / evaluation.num_positives == pytest.approx(recall)
    assert evaluation.systems["served"]["all"] == pytest.approx(evaluation.systems["model"]["all"])


@pytest.mark.slow
def test_what_the_rules_of_a_request_remove_is_counted(tiny_run, models):
    free = evaluate(*tiny_run, split="validation", models=models)
    # No cosine is as large.
    ruled = evaluate(*tiny_run, split="validation", models=models, rules={"min_score": 1.5})

    assert ruled.systems["served"]["all"]["recall_at_100"] == 0
    assert ruled.systems["model"] == free.systems["model"]
    for before, row in zip(free.details["attribution"], ruled.details["attribution"], strict=True):
        assert row["missed_by_rule"] == before["missed_by_rule"] + before["found"] > 0
        assert (row["found"], row["missed_by_model"]) == (0, before["missed_by_model"])


@pytest.mark.slow
def test_rules_without_models_are_refused(tiny_run):
    with pytest.raises(UsageError, match="rules are those of exported models"):
        evaluate(*tiny_run, split="validation", rules={"min_score": 0.1})


@pytest.mark.slow
def test_models_of_another_run_are_told(tiny_run, models):
    run = load_run(*tiny_run)
    embeddings = embed(run.model.candidate_tower, run.data.corpus().features)

    with pytest.raises(UserError, match="version 1 in .* was not exported from this run"):
        exported_index(models, -embeddings)

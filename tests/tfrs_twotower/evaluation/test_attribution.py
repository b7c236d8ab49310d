"""Who missed a relevant candidate, with each culprit planted."""

import numpy as np
import pytest

from tests import tiny_world
from tfrs_twotower.evaluate import embed, evaluate
from tfrs_twotower.evaluation.attribution import Attribution, answered_by, attribute, exported_index
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.index import ExactIndex
from tfrs_twotower.ranking import Pairs, Ranking, rank
from tfrs_twotower.runs import load_run
from tfrs_twotower.schema import UserError

NOTHING = Pairs(*np.zeros([2, 0], np.int64))


def pairs(*given: tuple[int, int]) -> Pairs:
    queries, rows = np.array(given, np.int64).reshape(-1, 2).T
    return Pairs(queries, rows)


def test_each_relevant_candidate_has_one_culprit_or_none():
    positives = pairs((0, 3), (0, 5), (1, 5), (1, 7))
    asked = EvaluationSet({}, np.arange(2), positives, NOTHING, num_known=6)
    exact = Ranking(np.array([1, 2, 3, 2]), np.zeros([2, 0], np.int64))
    # Exact search has 3 and 5 of query 0 and 7 of query 1 among the first two; the index lost 5.
    answered = pairs((0, 3), (0, 9), (1, 7))

    found = attribute(exact, answered, asked, corpus_size=10, k=2)

    assert found == Attribution(
        k=2, found=2, missed_by_model=1, missed_by_index=1, missed_by_rule=6
    )
    assert found.total == 10


def test_exclusions_take_no_place_in_an_answer():
    generator = np.random.default_rng(1)
    candidates = generator.normal(size=[30, 4]).astype(np.float32)
    queries = generator.normal(size=[7, 4]).astype(np.float32)
    excluded = Pairs(*np.nonzero(generator.random([7, 30]) < 0.5))

    answered = answered_by(ExactIndex(candidates), queries, excluded, k=5)

    lists = rank(queries, candidates, NOTHING, excluded, k=5).top_rows
    found = [sorted(answered.candidate_rows[answered.queries == query]) for query in range(7)]
    assert found == [sorted(row) for row in lists.tolist()]


def test_an_answer_is_short_where_few_are_eligible():
    excluded = Pairs(np.array([0, 0]), np.array([0, 2]))

    answered = answered_by(
        ExactIndex(np.eye(3, dtype=np.float32)), np.eye(3, dtype=np.float32)[:2], excluded, k=2
    )

    assert answered.queries.tolist() == [0, 1, 1]
    assert answered.candidate_rows.tolist()[0] == 1


def test_an_evaluation_with_models_says_who_missed_what(tiny_run, models):
    evaluation = evaluate(*tiny_run, split="validation", models=models)

    for row in evaluation.details["attribution"]:
        assert row["missed_by_index"] == 0  # So small a corpus is searched whole.
        assert row["found"] + row["missed_by_model"] == evaluation.num_positives
        recall = evaluation.systems["model"]["all"][f"recall_at_{row['k']}"]
        assert row["found"] / evaluation.num_positives == pytest.approx(recall)


def test_models_of_another_run_are_told(tiny_run, models):
    run = load_run(*tiny_run)
    embeddings = embed(run.model.candidate_tower, run.data.corpus().features)

    with pytest.raises(UserError, match="version 1 in .* was not exported from this run"):
        exported_index(models, -embeddings, tiny_world.config().index)

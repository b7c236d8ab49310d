"""What a model's lists lose without a feature's values, and how much they change by the moment."""

import numpy as np
import pytest

from tests import every_kind
from tfrs_twotower.evaluation.ablation import (
    context_sensitivity,
    importance_of_changes,
    morning_and_evening,
    permutation_importance,
    shuffled,
)
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError, parse_config
from tfrs_twotower.training.train import train

# A model of every kind of feature is trained.
pytestmark = pytest.mark.slow

NOTHING = Pairs(*np.zeros([2, 0], np.int64))


def evaluation_set_of(*positives: tuple[int, int]) -> EvaluationSet:
    queries, rows = np.array(positives, np.int64).T
    return EvaluationSet({}, np.unique(queries), Pairs(queries, rows), NOTHING, num_known=0)


def ranking(ranks: list[int], *lists: list[int]) -> Ranking:
    return Ranking(np.array(ranks), np.array(lists))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    config = every_kind.config(epochs=1)
    data = every_kind.write_prepared(root / "prepared", config)
    train(config, data, root / "run")
    return root / "run", data


# --- features -------------------------------------------------------------------------------


def test_a_feature_that_changes_nothing_overlaps_wholly():
    unchanged = ranking([1, 12], [4, 5], [6, 7])
    other = ranking([11, 12], [8, 9], [6, 3])

    idle, used = importance_of_changes(
        {"idle": unchanged, "used": other},
        unchanged,
        evaluation_set_of((0, 4), (1, 2)),
        context=["used"],
    )

    assert (idle["overlap_at_10"], idle["recall_at_10"], idle["is_context"]) == (1.0, 0.5, False)
    assert (used["overlap_at_10"], used["recall_at_10"], used["is_context"]) == (0.25, 0.0, True)
    assert used["recall_at_10_unchanged"] == 0.5


def test_one_feature_is_shuffled_and_the_others_stay():
    number = np.arange(50)
    evaluation_set = evaluation_set_of((0, 1))._replace(
        query_rows=number, features={"a": number, "b": np.stack([number, number], 1)}
    )

    changed = shuffled(evaluation_set, "b", seed=1)

    assert changed.features["a"].tolist() == number.tolist()
    assert sorted(changed.features["b"][:, 0]) == number.tolist()
    assert (changed.features["b"][:, 0] == changed.features["b"][:, 1]).all()
    assert (changed.features["b"][:, 0] != number).any()


def test_every_query_feature_has_an_importance(folders):
    """A feature that all queries share changes nothing when it is shuffled."""
    run = load_run(*folders)
    # Without exclusions: of fewer than ten eligible candidates every list holds all.
    evaluation_set = load_evaluation_set(run.data, "test", exclude_known=False)
    same = np.repeat(evaluation_set.features["age"][:1], len(evaluation_set.query_rows), axis=0)
    evaluation_set = evaluation_set._replace(features={**evaluation_set.features, "age": same})

    found = permutation_importance(EvaluationInputs.read(run.model, run.data, evaluation_set))

    assert [one["feature"] for one in found] == list(run.config.query_features)
    overlaps = {one["feature"]: one["overlap_at_10"] for one in found}
    assert overlaps["age"] == 1.0
    assert min(overlaps.values()) < 1.0


# --- moments --------------------------------------------------------------------------------


def test_a_moment_is_as_alike_to_itself_as_can_be(folders):
    moment = {"moment": 1_709_712_000}

    found = context_sensitivity(*folders, first=moment, second=moment)

    assert found.overlap_at_10 == 1.0
    assert found.context_mode == "user_tower"


def test_morning_and_evening_are_by_the_clock_of_the_feature(folders):
    found = context_sensitivity(*folders)

    # Paris is an hour ahead of UTC in March: 07:00 and 19:00 UTC, twelve hours apart.
    assert found.first["moment"] % 86_400 == 7 * 3600
    assert found.second["moment"] - found.first["moment"] == 12 * 3600
    assert 0.0 <= found.overlap_at_10 <= 1.0


def test_a_model_that_reads_no_hour_has_no_morning():
    config = parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}}\n"
        "  context: {day: {kind: timestamp, parts: [weekday]}}\n"
        "  candidate: {item: {kind: id}}",
        "test.yaml",
    )

    assert morning_and_evening(config) is None


def test_a_moment_of_no_feature_is_refused(folders):
    with pytest.raises(UsageError, match="weather is no context feature: expected some of moment"):
        context_sensitivity(*folders, first={"weather": 1}, second={"weather": 2})


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        pytest.param({}, "a moment is empty: .* one of moment", id="empty"),
        pytest.param({"moment": "noon"}, "moment takes Unix seconds, .* got 'noon'", id="text"),
    ],
)
def test_a_moment_that_says_nothing_is_refused(folders, moment, said):
    with pytest.raises(UsageError, match=said):
        context_sensitivity(*folders, first=moment, second={"moment": 1})


def test_one_moment_alone_is_refused(folders):
    with pytest.raises(UsageError, match="both moments or none"):
        context_sensitivity(*folders, first={"moment": 1})

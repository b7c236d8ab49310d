"""What the figures of an evaluation suggest: a hint where its figure is, none where it is not."""

import copy

import pytest

from tfrs_twotower.evaluation.hints import evaluation_hints
from tfrs_twotower.schema import Config, parse_config

FEATURES = """\
columns: {timestamp: t}
features:
  query: {user: {kind: id}, history: {kind: history}}
  context: {moment: {kind: timestamp}}
  candidate: {item: {kind: id}, title: {kind: text}}
"""
SOUND = {
    "split": "test",
    "metrics": {
        "model": {
            "all": {
                "recall_at_10": 0.3,
                "popularity_ratio_at_10": 1.1,
                "coverage_at_10": 0.4,
            },
            **{part: {"recall_at_10": 0.3} for part in ("warm", "known candidates")},
            **{part: {"recall_at_10": None} for part in ("cold", "new candidates")},
        },
        "popularity": {"all": {"recall_at_10": 0.1}},
        "item-kNN": {"all": {"recall_at_10": 0.2}},
    },
    "intervals": {"model": {"all": {"recall_at_10": [0.28, 0.32]}}},
    "sensitivity": [
        {"feature": "history", "is_context": False, "overlap_at_10": 0.1},
        {"feature": "moment", "is_context": True, "overlap_at_10": 0.8},
    ],
}
TRAINING = {"epochs": [{}, {}, {}], "best_epoch": 1, "validation": {}}
MANIFEST = {
    "corpus_size": 10,
    "counts": {"examples": {s: {"positives": 90} for s in ("train", "validation", "test")}},
    "warm_cold": {
        "test": {
            "warm_candidates": 81,
            "cold_candidates": 9,
            "warm_queries": 85,
            "cold_queries": 5,
        }
    },
}


def config(more: str = "") -> Config:
    return parse_config(FEATURES + more, "hints")


def hints(*, more: str = "", training=TRAINING, **changes) -> list[str]:
    return evaluation_hints(config(more), MANIFEST, training, {**SOUND, **changes})


def with_model(part: str, **values: float) -> dict:
    metrics = copy.deepcopy(SOUND["metrics"])
    metrics["model"][part] |= values
    return metrics


def test_sound_figures_need_no_hint():
    assert hints() == []


def test_candidates_and_queries_that_train_lacks_are_told_with_their_recall():
    [candidates] = hints(metrics=with_model("new candidates", recall_at_10=0.02))
    [queries] = hints(metrics=with_model("cold", recall_at_10=0.02))

    assert candidates.startswith(
        "10% of the candidates of the test split have no positive in train (recall@10 0.020, of "
        "the others 0.300)"
    )
    assert "content" in candidates
    assert queries.startswith("6% of the queries of the test split")


def test_the_last_epoch_and_a_better_baseline_are_told():
    [longer] = hints(training={**TRAINING, "best_epoch": 2})
    metrics = {**SOUND["metrics"], "item-kNN": {"all": {"recall_at_10": 0.33}}}
    [better] = hints(metrics=metrics)

    assert "`--set training.epochs=6`" in longer
    assert better.startswith("item-kNN finds more (recall@10 0.330) than the model (0.300, its")
    assert "history" not in better
    assert "`twotower tune`" in better
    within = {**SOUND["metrics"], "item-kNN": {"all": {"recall_at_10": 0.31}}}
    assert hints(metrics=within) == []
    given = {**SOUND["metrics"], "oracle": {"all": {"recall_at_10": 0.9}}}
    assert hints(metrics=given) == []


@pytest.mark.parametrize(
    ("loss", "key"),
    [
        ("{}", "loss.logq_correction=false"),
        ("{logq_correction: false}", "`mmr_lambda`"),
        ("{kind: bpr}", "`loss.hard_negatives`"),
    ],
)
def test_popularity_bias_is_told_with_what_the_loss_can_do(loss, key):
    [hint] = hints(more=f"loss: {loss}", metrics=with_model("all", popularity_ratio_at_10=2.24))

    assert hint.startswith("the ten best are 2.2 times as popular as what is chosen, and 40% of")
    assert key in hint


def test_features_that_make_no_difference_are_told_by_side():
    sensitivity = [
        {"feature": "history", "is_context": False, "overlap_at_10": 0.994},
        {"feature": "user", "is_context": False, "overlap_at_10": 0.98},
        {"feature": "moment", "is_context": True, "overlap_at_10": 1.0},
    ]

    moment, history = hints(sensitivity=sensitivity)

    assert moment.startswith("shuffling `moment` among the queries changes 0.0% of the ten best")
    assert "towers.context_mode=trilinear" in moment
    assert history.startswith("shuffling `history` among the queries changes 0.6% of the ten best")
    assert "`features.query`" in history
    [other] = hints(
        more="towers: {context_mode: trilinear}",
        sensitivity=[SOUND["sensitivity"][0], sensitivity[2]],
    )
    assert "towers.context_mode=user_tower" in other


def test_what_the_index_misses_is_told_with_a_target_of_half_the_loss():
    rows = [
        {"k": 10, "found": 99, "missed_by_index": 1, "missed_by_model": 0, "missed_by_rule": 0},
        {"k": 100, "found": 180, "missed_by_index": 20, "missed_by_model": 0, "missed_by_rule": 0},
    ]

    [hint] = hints(attribution=rows)
    [with_target] = hints(more="index: {target_recall: 0.92}", attribution=rows)

    assert hint.startswith("the index misses 10.0% (20) of the relevant candidates")
    assert "first 100" in hint
    assert "`twotower export --target-recall 0.95`" in hint
    assert "--target-recall 0.96`" in with_target
    rows[1]["missed_by_index"] = rows[0]["missed_by_index"] = 0
    assert hints(attribution=rows) == []

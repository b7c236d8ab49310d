"""What the data suggest to change: each hint where its cause is, none where it is not."""

import pytest

from tfrs_twotower.schema import Config, parse_config
from tfrs_twotower.schema.hints import ColdRecall, data_hints, left_out, training_hints

IDS_ONLY = "{query: {user: {kind: id}}, candidate: {item: {kind: id}}}"
WITH_CONTENT = (
    "{query: {user: {kind: id}, history: {kind: history}}, "
    "candidate: {item: {kind: id}, title: {kind: text}}}"
)


def config(features: str) -> Config:
    return parse_config(f"columns: {{timestamp: t}}\nfeatures: {features}", "hints")


def manifest(*, cold_candidates=0, cold_queries=0, positives=1000, left_out=0):
    counts = {"positives": 50, "negatives": 0}
    return {
        "corpus_size": 100,
        "counts": {
            "filtered": {"candidate_not_in_train": left_out} if left_out else {},
            "examples": {
                "train": {"positives": positives, "negatives": 7},
                "validation": counts,
                "test": counts,
            },
        },
        "warm_cold": {
            "test": {
                "warm_candidates": 50 - cold_candidates,
                "cold_candidates": cold_candidates,
                "warm_queries": 20 - cold_queries,
                "cold_queries": cold_queries,
            }
        },
    }


@pytest.mark.parametrize("features", [IDS_ONLY, WITH_CONTENT])
def test_sound_data_need_no_hint(features):
    assert data_hints(config(features), manifest()) == []


def test_new_candidates_are_no_reason_to_train_longer():
    [ids] = data_hints(config(IDS_ONLY), manifest(cold_candidates=31))
    [content] = data_hints(config(WITH_CONTENT), manifest(cold_candidates=31))

    for hint in (ids, content):
        assert hint.startswith("62% of the candidates of the test split have no positive in train")
    assert "nothing but an id" in ids
    assert "longer training will not find them" in ids
    assert "`dropout` of the id feature" in content


def test_new_users_need_more_than_an_id():
    [hint] = data_hints(config(IDS_ONLY), manifest(cold_queries=10))

    assert hint.startswith("50% of the queries of the test split have no positive in train")
    assert data_hints(config(WITH_CONTENT), manifest(cold_queries=10)) == []


def test_what_cold_candidates_cost_is_told_of_fewer_of_them():
    few = manifest(cold_candidates=4)  # 8 %: not worth a sentence by itself.
    costly, cheap = ColdRecall(0.01, 0.3), ColdRecall(0.2, 0.3)

    [hint] = data_hints(config(WITH_CONTENT), few, candidates=costly)

    assert hint.startswith(
        "8% of the candidates of the test split have no positive in train (recall@10 0.010, of the "
        "others 0.300): see the slice `new candidates`"
    )
    assert data_hints(config(WITH_CONTENT), few, candidates=cheap) == []
    assert data_hints(config(WITH_CONTENT), few, candidates=ColdRecall()) == []


def test_what_cold_queries_cost_is_told_where_there_is_more_to_read_than_an_id():
    few = manifest(cold_queries=2)

    [hint] = data_hints(config(WITH_CONTENT), few, queries=ColdRecall(0.01, 0.3))

    assert "10% of the queries of the test split" in hint
    assert "`features.query`" in hint


def test_a_training_that_was_still_improving_is_told_from_one_that_was_not():
    [hint] = training_hints(6, 5, is_validated=True)

    assert hint.startswith("the last of 6 epochs was the best")
    assert "`--set training.epochs=12`" in hint
    assert training_hints(6, 4, is_validated=True) == []
    assert training_hints(6, 5, is_validated=False) == []
    assert training_hints(1, 0, is_validated=True) == []


def test_few_events_are_told_with_how_few():
    [hint] = data_hints(config(IDS_ONLY), manifest(positives=120))

    assert "120 positives for 100 candidates, 1.2 each" in hint


def test_events_that_no_corpus_holds_are_told_with_their_share():
    # 900 of 1,000 events after train.
    [hint] = left_out(manifest(left_out=900))

    assert hint.startswith("90% of the events after train (900) are left out")
    assert "`split.corpus: log`" in hint
    assert list(left_out(manifest(left_out=1))) == []

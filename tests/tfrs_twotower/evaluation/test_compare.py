"""A planted difference is found, and none between a run and itself."""

import json

import numpy as np
import pandas as pd
import pytest

from tests import tiny_world
from tfrs_twotower.evaluation.compare import compare
from tfrs_twotower.schema import UsageError, UserError, dump_config


def write_run(folder, ranks, lists=None, query_ids=None, seed=7):
    """An evaluated run: one list of ranks a query."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"kind": "run"}))
    config = tiny_world.config(seed=seed)
    (folder / "config.yaml").write_text(dump_config(config))
    query_ids = query_ids or [f"u{place:04d}" for place in range(len(ranks))]
    table = pd.DataFrame(
        {
            "query_id": query_ids,
            "is_warm": True,
            "candidate_rows": [list(range(len(one))) for one in ranks],
            "ranks": ranks,
            "top_candidate_ids": lists or [["a", "b"]] * len(ranks),
        }
    )
    table.to_parquet(folder / "evaluation" / "test-full.parquet")
    said = {"protocol": "full", "relevant_from": 0.0}
    (folder / "evaluation" / "test-full.json").write_text(json.dumps(said))
    return folder


def of(comparison, run, metric):
    return next(found for found in comparison.metrics[run] if found.metric == metric)


@pytest.fixture
def ranks():
    return np.random.default_rng(1).integers(1, 60, [400, 2]).tolist()


def test_a_run_does_not_differ_from_itself(tmp_path, ranks):
    comparison = compare([write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", ranks)])

    for found in comparison.metrics["b"]:
        assert (found.difference, found.p_value, found.is_significant) == (0.0, 1.0, False)
        assert found.difference_interval == (0.0, 0.0)
    assert comparison.overlap_at_k == {"b": 1.0}
    assert comparison.config_differences == {"b": []}


def test_a_planted_difference_is_found(tmp_path, ranks):
    better = [[max(1, rank - 4) for rank in one] for one in ranks]
    comparison = compare([write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", better)])

    found = of(comparison, "b", "recall_at_10")
    expected = np.mean([[rank - 4 <= 10 for rank in one] for one in ranks])
    before = np.mean([[rank <= 10 for rank in one] for one in ranks])
    assert found.value == pytest.approx(expected)
    assert found.difference == pytest.approx(expected - before)
    assert found.difference_interval.low < found.difference < found.difference_interval.high
    assert found.difference_interval.low > 0
    assert found.p_value < 0.001


def test_a_comparison_shows_each_run_in_the_order_given(tmp_path, ranks):
    better = [[max(1, rank - 4) for rank in one] for one in ranks]
    comparison = compare([write_run(tmp_path / "z", ranks), write_run(tmp_path / "a", better)])

    table = comparison.to_frame()
    found = of(comparison, "a", "mrr")
    assert table.loc[("a", "mrr"), "difference"] == found.difference
    assert table.loc[("a", "mrr"), "p_value"] == found.p_value
    first, *lines = repr(comparison).splitlines()
    assert first == "Comparison of 2 runs with z, evaluation test-full: 400 queries"
    assert [line.split()[0] for line in lines[-2:]] == ["z", "a"]


def test_noise_alone_is_no_difference(tmp_path, ranks):
    other = np.random.default_rng(5).integers(1, 60, [400, 2]).tolist()
    comparison = compare([write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", other)])

    assert not of(comparison, "b", "mrr").is_significant


def test_only_shared_queries_are_compared_whatever_their_order(tmp_path, ranks):
    ids = [f"u{place}" for place in range(400)]
    first = write_run(tmp_path / "a", ranks, query_ids=ids)
    second = write_run(tmp_path / "b", ranks[::-1][:300], query_ids=ids[::-1][:300])

    comparison = compare([first, second])

    assert comparison.num_queries == 300
    assert of(comparison, "b", "mrr").difference == 0.0


def test_events_of_one_user_are_paired_one_by_one(tmp_path):
    ids = ["ann", "bob", "ann"]
    first = write_run(tmp_path / "a", [[1], [2], [50]], query_ids=ids)
    second = write_run(tmp_path / "b", [[50], [2], [1]], query_ids=ids)

    found = of(compare([first, second]), "b", "recall_at_10")

    assert found.difference == 0.0
    # As two users they would be two witnesses; as one, her gain and loss cancel.
    assert found.p_value == 1.0


def test_lists_are_compared_by_id(tmp_path):
    first = write_run(tmp_path / "a", [[1], [1]], lists=[["x", "y"], ["z"]])
    second = write_run(tmp_path / "b", [[1], [1]], lists=[["y", "q"], []])

    # One of two in common, and none of one.
    assert compare([first, second]).overlap_at_k == {"b": 0.25}


def test_what_differs_in_the_configs_is_told(tmp_path, ranks):
    first, second = write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", ranks, seed=8)

    assert compare([first, second]).config_differences == {"b": [("training.seed", 7, 8)]}


def test_runs_of_the_same_name_are_told_apart(tmp_path, ranks):
    first, second = (write_run(tmp_path / place / "run", ranks) for place in ("x", "y"))

    assert len(set(compare([first, second]).runs)) == 2


def test_a_comparison_is_json_that_any_reader_accepts(tmp_path, ranks):
    comparison = compare([write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", ranks)])

    assert json.loads(json.dumps(comparison.as_dict(), allow_nan=False))["runs"] == ["a", "b"]


def test_one_run_is_nothing_to_compare(tmp_path, ranks):
    with pytest.raises(UsageError, match="a comparison needs two runs or more"):
        compare([write_run(tmp_path / "a", ranks)])


def test_a_run_that_is_not_evaluated_is_told(tmp_path, ranks):
    first, second = write_run(tmp_path / "a", ranks), write_run(tmp_path / "b", ranks)
    (second / "evaluation" / "test-full.parquet").unlink()

    with pytest.raises(
        UserError, match=r"b has no evaluation test-full: make it with `twotower ev"
    ):
        compare([first, second])


def test_runs_that_share_no_query_are_told(tmp_path):
    first = write_run(tmp_path / "a", [[1]], query_ids=["ann"])
    second = write_run(tmp_path / "b", [[1]], query_ids=["bob"])

    with pytest.raises(UserError, match="a, b were evaluated on different queries"):
        compare([first, second])


def test_the_same_queries_with_other_relevant_candidates_are_told(tmp_path):
    first = write_run(tmp_path / "a", [[1]], query_ids=["ann"])
    second = write_run(tmp_path / "b", [[1, 2]], query_ids=["ann"])

    with pytest.raises(UserError, match="other relevant candidates"):
        compare([first, second])

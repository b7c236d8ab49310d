"""Inverted lists: the leaves hold the corpus, and a search reads the nearest of them only."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.tfrs_twotower.index.clustered import AT, CANDIDATES, OTHER_QUERIES, QUERIES
from tests.tfrs_twotower.index.test_base import compiled, random_embeddings, search, true_order
from tfrs_twotower.index import ExactIndex, IvfIndex, IvfParameters, measure_recall, tune_ivf
from tfrs_twotower.index import ivf as ivf_module
from tfrs_twotower.index.leaves import partition
from tfrs_twotower.index.promised_recall import promise_recall
from tfrs_twotower.schema import UserError

# What TensorFlow Serving's stock image has; not every op of TensorFlow is in it.
CUSTOM_OPS = {"Scann"}


@pytest.mark.parametrize(("num_leaves", "leaf_size"), [(1, 1000), (1, 7), (40, 30), (40, 1000)])
def test_leaves_hold_every_row_once_and_none_is_too_large(num_leaves, leaf_size):
    leaves = partition(random_embeddings(1000), num_leaves, leaf_size)

    assert sorted(np.concatenate(leaves).tolist()) == list(range(1000))
    assert {len(leaf) for leaf in leaves} <= set(range(1, leaf_size + 1))
    for leaf in leaves:
        assert leaf.tolist() == sorted(leaf.tolist())


def test_what_is_halved_leaves_few_slots_empty():
    # One leaf of 1000 rows in leaves of at most 30: 34 of them, of 29 or 30 rows.
    leaves = partition(random_embeddings(1000), 1, 30)

    assert len(leaves) == 34
    assert {len(leaf) for leaf in leaves} == {29, 30}


def test_rows_that_are_all_alike_are_divided_as_well():
    leaves = partition(np.ones([100, 4], np.float32), 3, 8)

    assert sorted(np.concatenate(leaves).tolist()) == list(range(100))
    assert max(map(len, leaves)) <= 8


def test_clusters_far_apart_are_leaves_of_their_own():
    centres = np.eye(8, dtype=np.float32)
    rows = np.repeat(centres, 50, axis=0) + 0.01 * random_embeddings(400)

    leaves = partition(rows, 16, 50)

    for leaf in leaves:
        assert len(set((leaf // 50).tolist())) == 1


def planted(far: int) -> tuple[np.ndarray, IvfIndex]:
    """Two directions with 40 candidates each and a leaf each; the last of `far` ones of the second
    lie nearest to the first, but not nearest to its centre."""
    centres = np.eye(8, dtype=np.float32)[[0, 1]]
    embeddings = np.repeat(centres, 40, axis=0) + 0.01 * random_embeddings(80)
    embeddings[80 - far :] = 3.0 * centres[0] + 3.1 * centres[1]
    parameters = IvfParameters(num_leaves=2, leaf_size=40, leaves_to_search=1, at=10)
    return embeddings, IvfIndex(embeddings, parameters)


def test_only_the_nearest_leaf_is_searched():
    embeddings, index = planted(far=2)
    assert index.num_leaves == 2

    rows, _ = search(index, np.eye(8, dtype=np.float32)[:1], k=5)

    # Candidates 78 and 79 have the largest dot products, in the leaf that is not read.
    assert true_order(embeddings, np.eye(8, dtype=np.float32)[:1])[0, :2].tolist() == [78, 79]
    assert set(rows[0].tolist()) < set(range(40))


def test_all_leaves_are_searched_where_that_is_asked():
    embeddings, index = planted(far=2)
    index.search_with(dataclasses.replace(index.parameters, leaves_to_search=2))

    rows, _ = search(index, np.eye(8, dtype=np.float32), k=7)

    np.testing.assert_array_equal(rows, true_order(embeddings, np.eye(8, dtype=np.float32))[:, :7])


def test_a_k_above_at_is_searched_in_more_leaves():
    embeddings, index = planted(far=2)

    # At k = 20 twice as many leaves as at 10 are read: both of them.
    rows, _ = search(index, np.eye(8, dtype=np.float32)[:1], k=20)

    expected = true_order(embeddings, np.eye(8, dtype=np.float32)[:1])[:, :20]
    np.testing.assert_array_equal(rows, expected)


def test_what_the_leaves_are_short_of_is_completed_exactly():
    """A leaf of 3 candidates beside one of 61, which has no room for the three."""
    centres = np.eye(8, dtype=np.float32)[[0, 1]]
    embeddings = np.repeat(centres, [3, 61], axis=0) + 0.01 * random_embeddings(64)
    parameters = IvfParameters(num_leaves=2, leaf_size=61, leaves_to_search=1, at=30)
    index = IvfIndex(embeddings, parameters)
    # An empty slot scores 0, more than the candidates that lie behind.
    queries = np.concatenate([centres, -centres])

    rows, scores = search(index, queries, k=30)

    np.testing.assert_array_equal(rows[0], true_order(embeddings, queries)[0, :30])
    assert all(len(set(row)) == 30 for row in rows.tolist())
    assert (rows >= 0).all()
    expected = np.take_along_axis(queries @ embeddings.T, rows, axis=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("elements", [pytest.param(1, marks=pytest.mark.slow), 5_000])
def test_leaves_copied_for_a_few_queries_at_a_time_change_nothing(elements, monkeypatch):
    index = IvfIndex(CANDIDATES, IvfParameters.for_corpus(len(CANDIDATES)))
    whole = search(index, QUERIES[:9], k=30)

    monkeypatch.setattr(ivf_module, "CACHE_ELEMENTS", elements)

    np.testing.assert_array_equal(search(index, QUERIES[:9], k=30), whole)


def test_every_op_is_of_stock_tensorflow():
    index = IvfIndex(CANDIDATES, IvfParameters.for_corpus(len(CANDIDATES)))

    definition = compiled(index).get_concrete_function().graph.as_graph_def()

    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert not {node.op for node in nodes if node.op.split(">")[0] in CUSTOM_OPS}
    known = {op for op in dir(tf.raw_ops) if not op.startswith("_")}
    assert {node.op for node in nodes} - known <= {
        f.signature.name for f in definition.library.function
    }


def test_other_leaves_than_those_that_were_built_are_refused():
    index = planted(far=0)[1]

    with pytest.raises(ValueError, match="cannot search"):
        index.search_with(dataclasses.replace(index.parameters, leaf_size=20))


def test_tuning_searches_as_few_leaves_as_reach_the_target():
    index, tuning = tune_ivf(CANDIDATES, QUERIES, target_recall=0.9, at=AT)

    assert tuning.chosen.lower_bound >= 0.9
    assert index.parameters == tuning.chosen.parameters
    cheaper = [t for t in tuning.trials if t.cost_bytes < tuning.chosen.cost_bytes]
    assert cheaper
    assert all(trial.lower_bound < 0.9 for trial in cheaper)
    assert tuning.chosen.parameters.leaves_to_search < index.num_leaves / 4
    leaves = [parameters.leaves_to_search for parameters in tuning.ladder]
    assert leaves == sorted(set(leaves))


@pytest.mark.slow
def test_the_promise_is_kept_for_queries_that_nothing_has_seen():
    index, tuning = tune_ivf(CANDIDATES, QUERIES[:150], target_recall=0.9, at=AT)

    promised = promise_recall(index, tuning, QUERIES[150:])

    assert promised.lower_bound == 0.9
    assert measure_recall(index, OTHER_QUERIES, AT).mean >= 0.9


@pytest.mark.slow
def test_a_target_that_is_not_reached_is_told():
    with pytest.raises(UserError, match="cannot be met"):
        tune_ivf(CANDIDATES, QUERIES[:10], target_recall=0.95, at=AT)


def test_a_pair_scores_as_in_the_exact_index():
    index = IvfIndex(CANDIDATES, IvfParameters.for_corpus(len(CANDIDATES)))

    rows, scores = search(index, QUERIES[:9], k=AT)

    exact = ExactIndex(CANDIDATES).score(tf.constant(QUERIES[:9]), tf.constant(rows))
    np.testing.assert_array_equal(scores, exact)


def test_bfloat16_leaves_rank_by_rounded_embeddings_and_score_by_whole_ones():
    embeddings, queries = random_embeddings(400), random_embeddings(9)
    parameters = IvfParameters(
        num_leaves=4, leaf_size=400, leaves_to_search=4, at=10, leaf_dtype="bfloat16"
    )
    index = IvfIndex(embeddings, parameters)

    rows, scores = search(index, queries, k=10)

    # The upper half of a float32, rounded to nearest, ties to even.
    bits = embeddings.view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    expected = true_order(bits.view(np.float32), queries)[:, :10]
    assert (np.sort(expected) != np.sort(true_order(embeddings, queries)[:, :10])).any()
    np.testing.assert_array_equal(np.sort(rows), np.sort(expected))
    np.testing.assert_array_equal(
        scores, ExactIndex(embeddings).score(tf.constant(queries), tf.constant(rows))
    )
    assert index.parameters.cost_bytes(400, 8) < IvfIndex(
        embeddings, dataclasses.replace(parameters, leaf_dtype="float32")
    ).parameters.cost_bytes(400, 8)

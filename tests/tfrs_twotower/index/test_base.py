"""All indexes against NumPy's argsort, and what ScaNN alone does wrong."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tfrs_twotower.index import (
    CandidateIndex,
    ExactIndex,
    IndexParameters,
    IvfIndex,
    IvfParameters,
    ScannIndex,
)
from tfrs_twotower.index import base as index_module

NARROW_TREE = IndexParameters(num_leaves=20, leaves_to_search=1, reorder=1)


def scann_tree(embeddings: np.ndarray) -> ScannIndex:
    size = len(embeddings)
    return ScannIndex(embeddings, IndexParameters.for_corpus(size) if size >= 256 else None)


def ivf(embeddings: np.ndarray) -> IvfIndex:
    return IvfIndex(embeddings, IvfParameters.for_corpus(len(embeddings)))


BACKENDS = [
    pytest.param(ExactIndex, id="exact"),
    pytest.param(ScannIndex, id="scann-brute-force"),
    pytest.param(scann_tree, id="scann-tree"),
    pytest.param(ivf, id="ivf"),
]
NO_BRUTE_FORCE = [BACKENDS[0], *BACKENDS[2:]]


def random_embeddings(num_rows: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num_rows, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def compiled(index: CandidateIndex) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """The search as a graph for batches of any size."""
    specs = [tf.TensorSpec([None, index.embedding_dim]), tf.TensorSpec([], tf.int32)]
    return tf.function(index.search, specs)


def search(index: CandidateIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = compiled(index)(queries, k)
    return rows.numpy(), scores.numpy()


def true_order(embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    scores = queries.astype(np.float64) @ embeddings.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")


def test_exact_index_finds_what_argsort_finds():
    embeddings, queries = random_embeddings(500), random_embeddings(7, seed=1)

    rows, scores = search(ExactIndex(embeddings), queries, k=12)

    expected = true_order(embeddings, queries)[:, :12]
    np.testing.assert_array_equal(rows, expected)
    true_scores = np.take_along_axis(queries @ embeddings.T, expected, axis=1)
    np.testing.assert_allclose(scores, true_scores, atol=1e-6)


@pytest.mark.parametrize("num_candidates", [1, 2, 50])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_corpus_is_answered_whole_when_k_is_larger(backend, num_candidates):
    embeddings, queries = random_embeddings(num_candidates), random_embeddings(3, seed=1)

    rows, _ = search(backend(embeddings), queries, k=60)

    np.testing.assert_array_equal(rows, true_order(embeddings, queries))


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_embeddings_come_in_the_order_of_their_rows(backend):
    embeddings = np.repeat(random_embeddings(3), 100, axis=0)
    query = embeddings[150:151]

    rows, scores = search(backend(embeddings), query, k=300)

    np.testing.assert_array_equal(rows[0, :100], np.arange(100, 200))
    assert len(np.unique(scores)) == 3


class BackToFront(ExactIndex):
    """Finds what is right in the wrong order, as a search may among equal scores."""

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        return tf.reverse(super()._find(queries, k), axis=[1])


def test_the_order_of_an_answer_is_not_that_in_which_it_was_found():
    embeddings = np.repeat(random_embeddings(3), 4, axis=0)
    queries = random_embeddings(5, seed=1)

    rows, _ = search(BackToFront(embeddings), queries, k=12)

    np.testing.assert_array_equal(rows, true_order(embeddings, queries))


def test_exact_index_cuts_equal_candidates_at_the_lowest_rows():
    embeddings = np.repeat(random_embeddings(3), 100, axis=0)

    rows, _ = search(ExactIndex(embeddings), embeddings[150:151], k=4)

    np.testing.assert_array_equal(rows, [[100, 101, 102, 103]])


@pytest.mark.parametrize("k", [900, 1000])
def test_scann_is_completed_where_it_finds_too_few(k):
    embeddings, queries = random_embeddings(1000), random_embeddings(4, seed=1)

    rows, _ = search(ScannIndex(embeddings, NARROW_TREE), queries, k)

    # All leaves are searched for such a k, so what is found is the truth.
    np.testing.assert_array_equal(rows, true_order(embeddings, queries)[:, :k])


def test_only_the_queries_that_scann_leaves_short_are_completed():
    """A lonely cluster of 20 beside one of 980: the leaf that is searched holds 20 or plenty."""
    centres = np.eye(8, dtype=np.float32)[[0, 1]]
    embeddings = np.repeat(centres, [20, 980], axis=0) + 0.01 * random_embeddings(1000)
    index = ScannIndex(embeddings, IndexParameters(num_leaves=2, leaves_to_search=1))

    rows, _ = search(index, centres, k=30)

    np.testing.assert_array_equal(rows, true_order(embeddings, centres)[:, :30])


@pytest.mark.parametrize("k", [1, 10, 60, 400])
def test_a_tree_never_answers_a_candidate_twice(k):
    embeddings, queries = random_embeddings(600), random_embeddings(20, seed=1)

    rows, scores = search(ScannIndex(embeddings, NARROW_TREE), queries, k)

    assert rows.shape == (20, k)
    assert all(len(set(row)) == k for row in rows.tolist())
    assert np.isfinite(scores).all()


def test_a_tree_finds_most_of_a_clustered_corpus():
    """Twenty tight clusters; a query at a centre has its ten best in that cluster."""
    centres = random_embeddings(20, dimension=16)
    embeddings = np.repeat(centres, 50, axis=0) + 0.05 * random_embeddings(1000, 16, seed=1)
    index = ScannIndex(embeddings, IndexParameters(num_leaves=20, leaves_to_search=5))

    rows, _ = search(index, centres, k=10)

    truth = true_order(embeddings, centres)[:, :10]
    found = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]
    assert np.mean(found) > 9


def test_a_tree_finds_as_large_a_share_of_more_candidates():
    """Filters ask for many times `at`: the pool that they choose from must not be worse."""
    embeddings, queries = random_embeddings(8000, 16), random_embeddings(50, 16, seed=1)
    parameters = IndexParameters(num_leaves=80, leaves_to_search=16, reorder=100, at=20)
    index = ScannIndex(embeddings, parameters)
    order = true_order(embeddings, queries)

    def recall(k: int) -> float:
        rows, _ = search(index, queries, k)
        pairs = zip(rows, order[:, :k], strict=True)
        return float(np.mean([np.isin(true, found).mean() for found, true in pairs]))

    assert 0.7 < recall(20) < 0.95
    assert recall(320) > recall(20) - 0.03


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_a_pair_has_the_same_score_to_the_last_bit_in_every_index(backend):
    embeddings, queries = random_embeddings(400), random_embeddings(5, seed=1)

    rows, scores = search(backend(embeddings), queries, k=30)
    exact = ExactIndex(embeddings).score(tf.constant(queries), tf.constant(rows))

    np.testing.assert_array_equal(scores, exact)


@pytest.mark.parametrize("backend", NO_BRUTE_FORCE)
def test_an_answer_does_not_depend_on_the_other_queries_of_the_batch(backend):
    find = compiled(backend(random_embeddings(400)))
    queries = random_embeddings(9, seed=1)

    together = find(queries, 5)
    alone = [find(queries[i : i + 1], 5) for i in range(9)]

    for part in (0, 1):
        np.testing.assert_array_equal(
            together[part], np.concatenate([answer[part] for answer in alone])
        )


@pytest.mark.parametrize("backend", NO_BRUTE_FORCE)
@pytest.mark.parametrize("elements", [1, 2000])
def test_searching_in_chunks_changes_nothing(backend, elements, monkeypatch):
    index = backend(random_embeddings(400))
    queries = random_embeddings(11, seed=1)
    whole = search(index, queries, k=300)

    monkeypatch.setattr(index_module, "CHUNK_ELEMENTS", elements)

    np.testing.assert_array_equal(search(index, queries, k=300), whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_query_is_a_search_as_well(backend):
    rows, scores = search(backend(random_embeddings(300)), np.zeros((0, 8), np.float32), k=5)

    assert rows.shape == scores.shape == (0, 5)


def test_two_scann_indexes_in_one_process_answer_for_themselves():
    first, second = random_embeddings(300), random_embeddings(300, seed=1)
    queries = random_embeddings(2, seed=2)
    indexes = [scann_tree(embeddings) for embeddings in (first, second)]

    answers = [search(index, queries, k=300)[0] for index in indexes]

    np.testing.assert_array_equal(answers[0], true_order(first, queries))
    np.testing.assert_array_equal(answers[1], true_order(second, queries))


def test_building_twice_gives_the_same_index():
    embeddings = random_embeddings(2000)

    first, second = (scann_tree(embeddings) for _ in range(2))

    assert first.description == second.description
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("backend", NO_BRUTE_FORCE)
def test_no_search_puts_the_embeddings_into_the_mode_that_copies_them_when_read(backend):
    index = backend(random_embeddings(300))

    definition = compiled(index).get_concrete_function().graph.as_graph_def()

    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert not [node.name for node in nodes if node.op == "ResourceGather"]


def test_memory_of_the_searcher_is_forecast():
    exact = ExactIndex(random_embeddings(300))
    tree = scann_tree(random_embeddings(300))

    assert exact.searcher_bytes == 0
    # 300 x 8 float32, 300 x 4 one-byte hashes of two dimensions, 300 leaves as int32.
    assert tree.searcher_bytes == pytest.approx(9600 + 1200 + 1200, rel=0.01)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        pytest.param(np.zeros((0, 4), np.float32), r"at least one: .* \(0, 4\)", id="empty"),
        pytest.param(np.zeros(4, np.float32), r"got \(4,\)", id="one-dimension"),
        pytest.param(np.array([[np.nan]], np.float32), "finite", id="nan"),
    ],
)
def test_embeddings_that_cannot_be_searched_are_refused(embeddings, message):
    with pytest.raises(ValueError, match=message):
        ExactIndex(embeddings)


def test_a_tree_is_searched_by_other_parameters_of_its_own_only():
    embeddings = random_embeddings(300)
    narrow = IndexParameters(num_leaves=10, leaves_to_search=1)
    index, wider = ScannIndex(embeddings, narrow), dataclasses.replace(narrow, leaves_to_search=9)

    index.search_with(wider)

    assert index.parameters == wider
    with pytest.raises(ValueError, match="cannot search"):
        index.search_with(dataclasses.replace(narrow, dimensions_per_block=1))
    with pytest.raises(ValueError, match="built with None"):
        ScannIndex(embeddings).search_with(narrow)


def test_a_tree_of_a_handful_of_candidates_is_refused():
    with pytest.raises(ValueError, match="at least 256 candidates, got 10"):
        ScannIndex(random_embeddings(10), IndexParameters(num_leaves=1, leaves_to_search=1))

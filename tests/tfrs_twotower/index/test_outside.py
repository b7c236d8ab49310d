"""An index of an earlier corpus, corrected: new candidates are found, gone ones never."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tfrs_twotower.index.clustered import AT, CANDIDATES, DIMENSION, QUERIES, clustered
from tfrs_twotower.index import IndexParameters, IvfIndex, IvfParameters, ScannIndex, measure_recall
from tfrs_twotower.index.ivf import build_leaves
from tfrs_twotower.index.outside import OutsideRows
from tfrs_twotower.index.scann_of_earlier import EarlierScannIndex
from tfrs_twotower.keras import tf

SIZE = 400
EARLIER = CANDIDATES[:SIZE]


@pytest.fixture(scope="module")
def scann():
    return ScannIndex(EARLIER, IndexParameters.for_corpus(SIZE, leaves_to_search=8, at=AT))


@pytest.fixture(scope="module")
def ivf_leaves():
    parameters = IvfParameters.for_corpus(SIZE, at=AT)
    return parameters, build_leaves(EARLIER, parameters)


def corpus_after(num_gone: int, num_new: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The new embeddings, and the row of each earlier candidate among them."""
    draw = np.random.default_rng(seed)
    is_kept = np.ones(SIZE, bool)
    is_kept[draw.choice(SIZE, num_gone, replace=False)] = False
    size = int(is_kept.sum()) + num_new
    # New candidates stand anywhere among the earlier ones, by their ids.
    places = np.sort(draw.choice(size, int(is_kept.sum()), replace=False))
    embeddings = clustered(size, seed=seed, spread=0.5)
    embeddings[places] = EARLIER[is_kept]
    rows = np.full(SIZE, -1, np.int32)
    rows[is_kept] = places
    return embeddings, rows


def corrected(kind, embeddings, rows, scann, ivf_leaves):
    if kind == "scann":
        return EarlierScannIndex(embeddings, scann, rows)
    parameters, leaves = ivf_leaves
    slots = np.where(leaves.rows < 0, np.int32(-1), rows[leaves.rows])
    return IvfIndex(embeddings, parameters, leaves._replace(rows=slots))


@pytest.mark.parametrize("kind", ["scann", "ivf"])
@settings(max_examples=12)
@given(
    num_gone=st.sampled_from([0, 1, 40, 399]),
    num_new=st.sampled_from([0, 1, 60]),
    k=st.sampled_from([1, 20, 500]),
    seed=st.integers(0, 5),
)
def test_exactly_the_candidates_of_now_are_found(
    kind, num_gone, num_new, k, seed, scann, ivf_leaves
):
    embeddings, rows = corpus_after(num_gone, num_new, seed)
    index = corrected(kind, embeddings, rows, scann, ivf_leaves)

    found, scores = (x.numpy() for x in index.search(tf.constant(QUERIES[:5]), tf.constant(k)))

    width = min(k, len(embeddings))
    assert found.shape == scores.shape == (5, width)
    assert all(len(set(of_query)) == width for of_query in found.tolist())
    assert ((found >= 0) & (found < len(embeddings))).all()
    exact = QUERIES[:5] @ embeddings.T
    np.testing.assert_allclose(scores, np.take_along_axis(exact, found, axis=1), atol=1e-6)
    # What is new is scored for every query: none is missed.
    new = np.setdiff1d(np.arange(len(embeddings)), rows)
    best = np.argsort(-exact, axis=1, kind="stable")[:, :width]
    for of_query, of_exact in zip(found, best, strict=True):
        assert set(of_exact) & set(new) <= set(of_query)


@pytest.mark.parametrize("kind", ["scann", "ivf"])
def test_the_recall_is_that_of_a_new_index(kind, scann, ivf_leaves):
    embeddings, rows = corpus_after(20, 20, 0)
    if kind == "scann":
        new = ScannIndex(embeddings, scann.parameters)
    else:
        new = IvfIndex(embeddings, ivf_leaves[0])

    recall = measure_recall(corrected(kind, embeddings, rows, scann, ivf_leaves), QUERIES, AT).mean

    assert recall > measure_recall(new, QUERIES, AT).mean - 0.03


def test_what_is_outside_is_described_and_costs_no_node_where_it_is_empty(ivf_leaves):
    parameters, leaves = ivf_leaves

    assert "num_outside" not in IvfIndex(EARLIER, parameters, leaves).description
    others = OutsideRows(EARLIER, np.arange(1, SIZE, dtype=np.int32))
    assert others.description == {"num_outside": 1}


def test_candidates_that_are_gone_are_no_answer_even_if_nothing_else_is_near():
    embeddings = np.eye(DIMENSION, dtype=np.float32)[:2]
    rows = tf.constant([[-1, 0]])

    best, is_short = OutsideRows(embeddings, np.array([0, 1], np.int32)).best_of_both(
        tf.constant(embeddings[:1]), rows, tf.constant([[9.0, -1.0]]), tf.constant(2)
    )

    assert best.numpy().tolist() in ([[0, -1]], [[-1, 0]])
    assert is_short.numpy().tolist() == [True]

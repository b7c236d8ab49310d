"""Ranking for embeddings of any model, against a definition in plain NumPy."""

import numpy as np
import pytest

from tfrs_twotower.evaluation import CorpusRanking, rank_corpus
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import UsageError

NUM_QUERIES, NUM_CANDIDATES, DIM = 30, 50, 4


def draw(seed: int):
    """Embeddings of few values, so that scores tie, and lists with and without positives."""
    generator = np.random.default_rng(seed)
    queries = generator.integers(-1, 2, [NUM_QUERIES, DIM])
    candidates = generator.integers(-1, 2, [NUM_CANDIDATES, DIM])
    positives, exclude = [], []
    for _ in range(NUM_QUERIES):
        rows = generator.permutation(NUM_CANDIDATES)
        num_positives, num_excluded = generator.integers(0, 4), generator.integers(0, 45)
        positives.append(rows[:num_positives].tolist())
        exclude.append(rows[num_positives:][:num_excluded].tolist())
    return queries, candidates, positives, exclude


def by_definition(queries, candidates, exclude, query):
    """The eligible rows, best first."""
    scores = queries[query] @ candidates.T
    eligible = [row for row in range(NUM_CANDIDATES) if row not in exclude[query]]
    return sorted(eligible, key=lambda row: (-scores[row], row))


@pytest.mark.parametrize("seed", [1, 2])
def test_ranks_and_lists_are_those_of_a_sorted_corpus(seed):
    queries, candidates, positives, exclude = draw(seed)

    ranking = rank_corpus(queries, candidates, positives, exclude=exclude, k=8)

    found = ranking.to_frame().set_index(["query", "candidate_row"])["rank"].to_dict()
    expected = {}
    for query in range(NUM_QUERIES):
        order = by_definition(queries, candidates, exclude, query)
        expected |= {(query, row): order.index(row) + 1 for row in positives[query]}
        top = ranking.top_rows[query]
        assert top[top >= 0].tolist() == order[:8]
    assert found == expected


def test_metrics_are_means_over_the_queries_with_positives():
    queries, candidates, positives, exclude = draw(3)

    ranking = rank_corpus(queries, candidates, positives, exclude=exclude)

    recalls, reciprocals = [], []
    for query in range(NUM_QUERIES):
        order = by_definition(queries, candidates, exclude, query)
        ranks = [order.index(row) + 1 for row in positives[query]]
        recalls.append(np.mean([rank <= 5 for rank in ranks]) if ranks else np.nan)
        reciprocals.append(1 / min(ranks) if ranks else np.nan)
    assert np.isnan(recalls).any()
    np.testing.assert_allclose(ranking.per_query("recall_at_5"), recalls)
    assert ranking.metrics(["recall_at_5", "mrr"]) == pytest.approx(
        {"recall_at_5": np.nanmean(recalls), "mrr": np.nanmean(reciprocals)}
    )


def test_embeddings_of_keras_towers_are_taken_as_they_are():
    tower = keras.Sequential([keras.layers.Dense(3, use_bias=False)])
    features = tf.random.stateless_normal([5, 4], [1, 2])
    vectors = tower(features)

    ranking = rank_corpus(vectors, vectors.numpy(), [[row] for row in range(5)], k=2)

    scores = vectors.numpy() @ vectors.numpy().T
    expected = [1 + int((scores[row] > scores[row, row]).sum()) for row in range(5)]
    assert ranking.ranks.tolist() == expected
    assert ranking.top_rows.shape == (5, 2)


def test_without_lists_there_are_ranks_alone():
    ranking = rank_corpus(np.eye(3), np.eye(3), [[0], [0], [2]], k=0)

    # The query along dimension 1 ties candidates 0 and 2: the lower row is ahead.
    assert ranking.ranks.tolist() == [1, 2, 1]
    assert ranking.top_rows.shape == (3, 0)


def test_a_ranking_shows_its_sizes_and_headline_metrics():
    ranking = rank_corpus(np.eye(3), np.eye(3), [[0], [], [2]])

    first, *lines = repr(ranking).splitlines()
    assert first == "Ranking of 3 candidates for 3 queries, 2 of them with positives"
    assert lines[-1].split() == ["mrr", "1.0000"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        pytest.param(
            {"query_embeddings": np.ones([3, 2])},
            "have 2 dimensions, candidate_embeddings 3",
            id="widths",
        ),
        pytest.param({"candidate_embeddings": np.ones(3)}, r"shape \[3\]", id="shape"),
        pytest.param({"query_embeddings": [[np.nan, 0, 0]] * 3}, "row 0 is not finite", id="nan"),
        pytest.param({"positives": [[0], [1]]}, "rows for 2 queries", id="count"),
        pytest.param({"positives": [[], [], []]}, "no query has one", id="none"),
        pytest.param({"positives": [[0], [3], [1]]}, "no candidate has row 3", id="beyond"),
        pytest.param({"positives": [[0], [-1], [1]]}, "no candidate has row -1", id="negative"),
        pytest.param({"positives": [[0], [1, 1], []]}, "query 1 names candidate row 1", id="twice"),
        pytest.param({"positives": [["a"], [], []]}, "expected rows", id="ids"),
        pytest.param(
            {"exclude": [[1], [1], [2]]}, "row 1 is both a positive of query 1", id="both"
        ),
        pytest.param({"k": -1}, "k is -1", id="k"),
    ],
)
def test_mistakes_are_told_in_a_line(changed, message):
    arguments = {
        "query_embeddings": np.eye(3),
        "candidate_embeddings": np.eye(3),
        "positives": [[0], [1], [0]],
        **changed,
    }

    with pytest.raises(UsageError, match=message) as refused:
        rank_corpus(**arguments)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["recall", "recall_at_0", "recall_at_ten", "auc_at_10", "mrr_"])
def test_a_metric_that_there_is_not_is_told(name):
    ranking: CorpusRanking = rank_corpus(np.eye(3), np.eye(3), [[0], [1], [2]])

    with pytest.raises(UsageError, match=f"no metric '{name}': expected"):
        ranking.metrics([name])

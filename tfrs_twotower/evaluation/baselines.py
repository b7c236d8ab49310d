"""Non-learned baselines: chance, popularity, neighbours, sequential rules, lists from a file.

Each ranks under the rules of the evaluation set: the same queries, the same eligible candidates.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from tfrs_twotower.data.prepared import Arrays
from tfrs_twotower.evaluation.lists import rank_by_lists, read_lists
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs, Ranking, rank, rank_scores
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]

RANDOM_DIM = 32
RECENT_SHARE = 0.1
NUM_NEIGHBOURS = 100
NEIGHBOUR_ELEMENTS = 16_000_000
RULE_SPAN = 10


def popularity(evaluation_set: EvaluationSet, train_counts: Ints, k: int) -> Ranking:
    """Ranks by train positives, the same for every query; equal counts by candidate id."""
    # The score is 1 times the count's order; counts themselves may be too large for float32.
    _, order = np.unique(train_counts, return_inverse=True)
    queries = np.ones([len(evaluation_set.query_rows), 1], np.float32)
    candidates = order[:, np.newaxis].astype(np.float32)
    return rank(
        queries,
        candidates,
        evaluation_set.positives,
        evaluation_set.excluded,
        k=k,
        listed=evaluation_set.listed,
    )


def recent_counts(train: Arrays, corpus_size: int) -> Ints:
    """Positives of each candidate among the last tenth of the train positives.

    Args:
        train: The events of the train split; with times.
        corpus_size: Number of candidates.

    Returns:
        `[corpus_size]`; events of the second in which the last tenth begins count.
    """
    is_positive = train[layout.LABEL] == 1
    timestamps = train[layout.TIMESTAMP_S][is_positive]
    begin = np.sort(timestamps)[int((1.0 - RECENT_SHARE) * len(timestamps))]
    rows = train[layout.CANDIDATE_ROW][is_positive][timestamps >= begin]
    return np.bincount(rows, minlength=corpus_size)


def chance(evaluation_set: EvaluationSet, corpus_size: int, seed: int, k: int) -> Ranking:
    """Ranks at random: by dot products of random vectors."""
    generator = np.random.default_rng(seed)
    queries = generator.normal(size=[len(evaluation_set.query_rows), RANDOM_DIM]).astype(np.float32)
    candidates = generator.normal(size=[corpus_size, RANDOM_DIM]).astype(np.float32)
    return rank(
        queries,
        candidates,
        evaluation_set.positives,
        evaluation_set.excluded,
        k=k,
        listed=evaluation_set.listed,
    )


def item_knn(
    evaluation_set: EvaluationSet,
    known: tuple[Ints, Ints],
    num_queries: int,
    corpus_size: int,
    k: int,
) -> Ranking:
    """Item-based collaborative filtering.

    The similarity of two candidates is the cosine of the sets of queries that had them in train;
    of each candidate the 100 most similar count. A candidate's score is the sum of its similarities
    to what the query had in train.

    Args:
        evaluation_set: The evaluation set.
        known: Train positives as query rows and candidate rows, distinct pairs.
        num_queries: Queries of the data, not of the evaluation set.
        corpus_size: Number of candidates.
        k: Length of the lists of best candidates.

    References:
        Deshpande and Karypis, Item-Based Top-N Recommendation Algorithms, TOIS 2004.
    """
    ones = np.ones(len(known[0]), np.float32)
    had = sp.csr_array((ones, known), shape=(num_queries, corpus_size))
    similarities = _similarities(had)
    of_queries = had[evaluation_set.query_rows]

    def scores(start: int, end: int) -> npt.NDArray[np.float32]:
        return (of_queries[start:end] @ similarities).toarray()

    return rank_scores(
        scores,
        len(evaluation_set.query_rows),
        corpus_size,
        evaluation_set.positives,
        evaluation_set.excluded,
        k=k,
        listed=evaluation_set.listed,
    )


def sequential_rules(
    evaluation_set: EvaluationSet, train: Arrays, num_queries: int, corpus_size: int, k: int
) -> Ranking:
    """What came after what, counted: for data with an order.

    A rule from one candidate to another weighs the sum of 1 / distance over the places in the train
    positives of all queries at which the second came at most ten after the first. A candidate's
    score is the sum of the weights of the rules from the last ten train positives of the query,
    each divided by how long ago it was, 1 to 10.

    Args:
        evaluation_set: The evaluation set.
        train: The events of the train split, those of a query together and in their order.
        num_queries: Queries of the data, not of the evaluation set.
        corpus_size: Number of candidates.
        k: Length of the lists of best candidates.

    References:
        Ludewig and Jannach, Evaluation of Session-based Recommendation Algorithms, UMUAI 2018 (SR);
        there of the last event alone.
    """
    is_positive = train[layout.LABEL] == 1
    queries, rows = train[layout.QUERY_ROW][is_positive], train[layout.CANDIDATE_ROW][is_positive]
    rules = sp.csr_array((corpus_size, corpus_size), dtype=np.float32)
    for distance in range(1, RULE_SPAN + 1):
        is_rule = queries[distance:] == queries[:-distance]
        pairs = rows[:-distance][is_rule], rows[distance:][is_rule]
        weights = np.full(len(pairs[0]), 1.0 / distance, np.float32)
        rules += sp.coo_array((weights, pairs), shape=rules.shape).tocsr()
    # The last event of a query has the age 1.
    is_last = np.append(queries[1:] != queries[:-1], True)[: len(queries)]
    last = np.flatnonzero(is_last)
    age = last[np.cumsum(is_last) - is_last] - np.arange(len(queries)) + 1
    is_recent = age <= RULE_SPAN
    past = sp.coo_array(
        (1.0 / age[is_recent].astype(np.float32), (queries[is_recent], rows[is_recent])),
        shape=(num_queries, corpus_size),
    ).tocsr()[evaluation_set.query_rows]

    def scores(start: int, end: int) -> npt.NDArray[np.float32]:
        return (past[start:end] @ rules).toarray()

    return rank_scores(
        scores,
        len(evaluation_set.query_rows),
        corpus_size,
        evaluation_set.positives,
        evaluation_set.excluded,
        k=k,
        listed=evaluation_set.listed,
    )


def ranked_lists(
    path: str | Path,
    evaluation_set: EvaluationSet,
    query_ids: npt.NDArray[np.str_],
    candidate_ids: npt.NDArray[np.str_],
    k: int,
) -> Ranking:
    """Where lists from a file rank the relevant candidates.

    Args:
        path: See `read_lists`; candidates that are not eligible are left out.
        evaluation_set: The evaluation set.
        query_ids: `[num_queries]` ids of the queries; may repeat.
        candidate_ids: `[corpus_size]` ids of the corpus by row.
        k: Length of the lists of best candidates.

    Returns:
        Ranks and lists; a relevant candidate that is not in the list has the rank `UNLISTED`.

    Raises:
        UsageError: If the file cannot be read or lacks a column.
    """
    corpus_size = len(candidate_ids)
    lists = read_lists(path, query_ids, candidate_ids)
    pair = (lists["query"] * corpus_size + lists["row"]).drop_duplicates()
    pair = pair[
        ~pair.isin(
            evaluation_set.excluded.queries * corpus_size + evaluation_set.excluded.candidate_rows
        )
    ]
    if evaluation_set.listed is not None:
        pair = pair[
            pair.isin(
                evaluation_set.listed.queries * corpus_size + evaluation_set.listed.candidate_rows
            )
        ]
    listed = Pairs(*np.divmod(pair.to_numpy(), corpus_size))
    return rank_by_lists(listed, evaluation_set.positives, len(query_ids), corpus_size, k)


def _similarities(had: sp.csr_array) -> sp.csr_array:
    """`[corpus_size, corpus_size]` cosines of the columns, each row's largest, the diagonal 0."""
    corpus_size = had.shape[1]
    lengths = np.sqrt(np.maximum(had.sum(0, dtype=np.float64), 1.0)).astype(np.float32)
    normal = (had @ sp.diags_array(1.0 / lengths)).tocsc()
    transposed = normal.T.tocsr()
    num_kept = min(NUM_NEIGHBOURS, corpus_size)
    size = max(NEIGHBOUR_ELEMENTS // corpus_size, 1)
    blocks = []
    for start in range(0, corpus_size, size):
        cosines = (transposed[start : start + size] @ normal).toarray()
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = 0.0
        # Equal cosines: the lower row first, as everywhere.
        columns = np.argsort(-cosines, axis=1, kind="stable")[:, :num_kept]
        kept = np.take_along_axis(cosines, columns, axis=1)
        rows = np.broadcast_to(rows[:, np.newaxis], columns.shape)
        blocks.append(
            sp.csr_array((kept.ravel(), (rows.ravel(), columns.ravel())), shape=cosines.shape)
        )
    nearest = sp.vstack(blocks, format="csr")
    nearest.eliminate_zeros()
    return nearest

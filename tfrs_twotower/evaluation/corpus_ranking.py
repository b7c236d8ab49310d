"""Exact ranking of a corpus for embeddings of any model: arrays in, ranks and metrics out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.ranking import Pairs, rank
from tfrs_twotower.evaluation.summaries import HEADLINE
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.results import Tabular

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class CorpusRanking(Tabular):
    """Where the positives of each query rank among the eligible candidates of a corpus.

    Attributes:
        queries: `[num_positives]` int64, the position of each positive's query, ascending.
        candidate_rows: `[num_positives]` int64, the positives.
        ranks: `[num_positives]` int64, from 1; equal scores rank by candidate row.
        top_rows: `[num_queries, k]` int64 candidate rows, best first; -1 where fewer are eligible.
        corpus_size: Number of candidates.
    """

    queries: Ints
    candidate_rows: Ints
    ranks: Ints
    top_rows: Ints
    corpus_size: int

    def per_query(self, metric: str) -> npt.NDArray[np.float64]:
        """A metric of each query.

        Args:
            metric: Such as `recall_at_10` or `mrr`; see `metrics.by_name`.

        Returns:
            `[num_queries]` float64; NaN for a query without positives.

        Raises:
            UsageError: If there is no such metric.
        """
        values = np.full(len(self.top_rows), np.nan)
        judged, positions = np.unique(self.queries, return_inverse=True)
        values[judged] = metrics.by_name(metric, positions, self.ranks)
        return values

    def metrics(self, names: Sequence[str] = HEADLINE) -> dict[str, float]:
        """Means over the queries that have positives, by name of the metric."""
        return {name: float(np.nanmean(self.per_query(name))) for name in names}

    @property
    def title(self) -> str:
        """The sizes of the ranking."""
        return (
            f"Ranking of {self.corpus_size:,} candidates for {len(self.top_rows):,} queries, "
            f"{len(np.unique(self.queries)):,} of them with positives"
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a positive: its query, its candidate row, its rank."""
        return pd.DataFrame(
            {"query": self.queries, "candidate_row": self.candidate_rows, "rank": self.ranks}
        )

    def headline(self) -> pd.DataFrame:
        """The headline metrics."""
        return pd.DataFrame({"mean": self.metrics()})


def rank_corpus(
    query_embeddings: npt.ArrayLike,
    candidate_embeddings: npt.ArrayLike,
    positives: Sequence[Sequence[int]],
    *,
    exclude: Sequence[Sequence[int]] | None = None,
    k: int = 10,
) -> CorpusRanking:
    """Ranks the whole corpus for each query by the dot product, exactly.

    Args:
        query_embeddings: `[num_queries, d]`, of any model: an array, or a tensor.
        candidate_embeddings: `[corpus_size, d]`.
        positives: For each query the rows of its relevant candidates, distinct; none: the query
            has no metrics, but a list.
        exclude: For each query the rows of candidates that are not eligible, such as its positives
            in train; none of them may be among its `positives`. Default: all are eligible.
        k: Length of the lists of best candidates, cut to the corpus size; 0: none, which is much
            faster.

    Returns:
        Ranks, lists and metrics.

    Raises:
        UsageError: If the shapes do not fit together, an embedding is not finite, no query has a
            positive, or a row is no candidate's, named twice, or both positive and excluded.
    """
    queries = _matrix("query_embeddings", query_embeddings)
    candidates = _matrix("candidate_embeddings", candidate_embeddings)
    if queries.shape[1] != candidates.shape[1]:
        raise UsageError(
            f"query_embeddings have {queries.shape[1]} dimensions, candidate_embeddings "
            f"{candidates.shape[1]}: a score needs the same"
        )
    if k < 0:
        raise UsageError(f"k is {k}: expected 0 or more")
    sizes = len(queries), len(candidates)
    relevant = _pairs("positives", positives, *sizes)
    excluded = _pairs("exclude", [()] * len(queries) if exclude is None else exclude, *sizes)
    if not len(relevant.queries):
        raise UsageError("positives: no query has one: there is nothing to rank")
    is_both = np.isin(_keys(relevant, len(candidates)), _keys(excluded, len(candidates)))
    if is_both.any():
        query, row = (column[is_both][0] for column in relevant)
        raise UsageError(f"candidate row {row} is both a positive of query {query} and excluded")
    ranking = rank(queries, candidates, relevant, excluded, k=k)
    return CorpusRanking(*relevant, ranking.ranks, ranking.top_rows, len(candidates))


def _matrix(name: str, values: npt.ArrayLike) -> Floats:
    matrix = np.asarray(values, np.float32)
    if matrix.ndim != 2 or not matrix.size:
        raise UsageError(f"{name} has shape {list(matrix.shape)}: expected [n, d], n and d above 0")
    if not np.isfinite(matrix).all():
        raise UsageError(f"{name}: row {np.argwhere(~np.isfinite(matrix))[0][0]} is not finite")
    return matrix


def _pairs(
    name: str, rows_of_queries: Sequence[Sequence[int]], num_queries: int, corpus_size: int
) -> Pairs:
    """The rows of each query, ordered by query and row."""
    if len(rows_of_queries) != num_queries:
        raise UsageError(
            f"{name} has rows for {len(rows_of_queries)} queries, query_embeddings has "
            f"{num_queries}"
        )
    lengths = [len(rows) for rows in rows_of_queries]
    queries = np.repeat(np.arange(num_queries), lengths)
    # An empty list has no type of its own: it would make the others floats.
    given = [np.asarray(rows) for rows in rows_of_queries if len(rows)]
    rows = np.concatenate(given) if given else np.zeros(0, np.int64)
    if rows.dtype.kind not in "iu":
        raise UsageError(f"{name} holds {rows.dtype} values: expected rows, whole numbers")
    rows = rows.astype(np.int64)
    if ((rows < 0) | (rows >= corpus_size)).any():
        row = rows[(rows < 0) | (rows >= corpus_size)][0]
        raise UsageError(f"{name}: no candidate has row {row}: expected 0 .. {corpus_size - 1}")
    keys, counts = np.unique(queries * corpus_size + rows, return_counts=True)
    if (counts > 1).any():
        query, row = divmod(int(keys[counts > 1][0]), corpus_size)
        raise UsageError(f"{name}: query {query} names candidate row {row} twice")
    return Pairs(*np.divmod(keys, corpus_size))


def _keys(pairs: Pairs, corpus_size: int) -> Ints:
    """One number for each pair."""
    return pairs.queries * corpus_size + pairs.candidate_rows

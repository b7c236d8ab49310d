"""What needs no model: popularity, chance, and ranked lists from elsewhere."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.protocols import EvaluationSet
from tfrs_twotower.ranking import Ranking, rank
from tfrs_twotower.schema import UsageError

RANDOM_DIM = 32


def popularity(asked: EvaluationSet, train_counts: npt.NDArray[np.int64], k: int) -> Ranking:
    """Ranks by train positives, the same for every query; equal counts by candidate id."""
    # A dot product of one and the count is the count.
    queries = np.ones([len(asked.query_rows), 1], np.float32)
    candidates = train_counts[:, np.newaxis].astype(np.float32)
    return rank(queries, candidates, asked.positives, asked.excluded, k=k)


def chance(asked: EvaluationSet, corpus_size: int, seed: int, k: int) -> Ranking:
    """Ranks by directions drawn at random."""
    generator = np.random.default_rng(seed)
    queries = generator.normal(size=[len(asked.query_rows), RANDOM_DIM]).astype(np.float32)
    candidates = generator.normal(size=[corpus_size, RANDOM_DIM]).astype(np.float32)
    return rank(queries, candidates, asked.positives, asked.excluded, k=k)


def ranked_lists(
    path: str | Path,
    asked: EvaluationSet,
    query_ids: npt.NDArray[np.str_],
    candidate_ids: npt.NDArray[np.str_],
    k: int,
) -> Ranking:
    """Where lists from a file rank the relevant candidates.

    Args:
        path: Parquet with `query_id` (string) and `candidate_ids` (list of string, best first).
            Unknown ids and candidates that are not eligible are left out of the lists.
        asked: The evaluation set.
        query_ids: `[num_queries]` ids of the asked queries; may repeat.
        candidate_ids: `[corpus_size]` ids of the corpus by row.
        k: Length of the lists of best candidates.

    Returns:
        Ranks and lists; a relevant candidate that a list does not hold has the last rank of all.

    Raises:
        UsageError: If the file cannot be read or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=["query_id", "candidate_ids"])
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"cannot read ranked lists from {path}: expected Parquet with the columns `query_id` "
            f"and `candidate_ids` ({error})"
        ) from error
    corpus_size = len(candidate_ids)
    lists = table.to_pandas().explode("candidate_ids")
    queries = pd.DataFrame({"query_id": query_ids, "query": np.arange(len(query_ids))})
    rows = pd.DataFrame({"candidate_ids": candidate_ids, "row": np.arange(corpus_size)})
    lists = lists.merge(queries).merge(rows)  # Keeps the order of the lists.
    pair = (lists["query"] * corpus_size + lists["row"]).drop_duplicates()
    pair = pair[~pair.isin(asked.excluded.queries * corpus_size + asked.excluded.candidate_rows)]
    query_of_pair, row_of_pair = np.divmod(pair.to_numpy(), corpus_size)
    position = pair.groupby(query_of_pair).cumcount().to_numpy()
    wanted = asked.positives.queries * corpus_size + asked.positives.candidate_rows
    ranks = pd.Series(1 + position, pair).reindex(wanted, fill_value=corpus_size)
    top_rows = np.full([len(query_ids), k], -1, np.int64)
    is_top = position < k
    top_rows[query_of_pair[is_top], position[is_top]] = row_of_pair[is_top]
    return Ranking(ranks.to_numpy(np.int64), top_rows)

"""Ranked lists of candidates from a Parquet file, of other systems or of a protocol."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.schema import UsageError

COLUMNS = ["query_id", "candidate_ids"]
UNLISTED = np.iinfo(np.int32).max  # Behind any k.


def read_lists(
    path: str | Path, query_ids: npt.NDArray[np.str_], candidate_ids: npt.NDArray[np.str_]
) -> pd.DataFrame:
    """Reads the lists of some queries.

    Args:
        path: Parquet with `query_id` (string) and `candidate_ids` (list of string, best first).
            Unknown ids are left out of the lists.
        query_ids: `[num_queries]` ids of the queries; may repeat, each gets the list.
        candidate_ids: `[corpus_size]` ids of the corpus by row.

    Returns:
        int64 columns `query`, a position in `query_ids`, and `row`, a candidate row; in the order
        of the lists.

    Raises:
        UsageError: If the file cannot be read or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"cannot read ranked lists from {path}: expected Parquet with the columns `query_id` "
            f"and `candidate_ids` ({error})"
        ) from error
    lists = table.to_pandas().explode("candidate_ids")
    queries = pd.DataFrame({"query_id": query_ids, "query": np.arange(len(query_ids))})
    rows = pd.DataFrame({"candidate_ids": candidate_ids, "row": np.arange(len(candidate_ids))})
    return lists.merge(queries).merge(rows)[["query", "row"]]  # Keeps the order of the lists.


def rank_by_lists(
    listed: Pairs, positives: Pairs, num_queries: int, corpus_size: int, k: int
) -> Ranking:
    """Where lists rank the relevant candidates.

    Args:
        listed: Eligible candidates by query, best first, none twice.
        positives: The relevant candidates.
        num_queries: Number of queries.
        corpus_size: Number of candidates.
        k: Length of the lists of best candidates.

    Returns:
        Ranks and lists; a relevant candidate that a list does not hold has the rank `UNLISTED`.
    """
    pair = pd.Series(listed.queries * corpus_size + listed.candidate_rows)
    position = pair.groupby(listed.queries).cumcount().to_numpy()
    wanted = positives.queries * corpus_size + positives.candidate_rows
    ranks = pd.Series(1 + position, pair).reindex(wanted, fill_value=UNLISTED)
    top_rows = np.full([num_queries, k], -1, np.int64)
    is_top = position < k
    top_rows[listed.queries[is_top], position[is_top]] = listed.candidate_rows[is_top]
    return Ranking(ranks.to_numpy(np.int64), top_rows)

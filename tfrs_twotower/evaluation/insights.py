"""What stands beside the metrics: the data, the popularity of what is listed, example users.

All of it is plain values, as the evaluation's JSON holds them and the report draws them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]

TITLE = "title"
UNKNOWN = "(unknown)"  # A candidate in a history that is not in the train split.
NUM_BINS = 10
NUM_USERS, NUM_SHOWN = 6, 10
DATA_FACTS = (
    "corpus_size",
    "num_queries",
    "time_ranges",
    "cutoffs",
    "warm_cold",
    "vocabulary_sizes",
) + ("schema_fingerprint", "code_version")


def data_facts(data: PreparedData) -> dict[str, Any]:
    """Sizes, time ranges, split and rejects of the data, from its manifest."""
    manifest = data.manifest
    facts = {name: manifest[name] for name in DATA_FACTS if name in manifest}
    return {
        **facts,
        "counts": manifest["counts"],
        "split": data.config.split.model_dump(mode="json"),
    }


def popularity_profile(
    rankings: Mapping[str, Ranking], evaluation_set: EvaluationSet, corpus: Corpus
) -> dict[str, list[float]]:
    """How popular the listed candidates are, and those that were chosen.

    Returns:
        For "consumed" (the relevant candidates) and each system's lists the shares of ten bins of
        the corpus of equal size, the most popular tenth first; equal counts by id. Shares add up
        to 1, or are all 0 for a system without lists.
    """
    order = np.argsort(-corpus.train_counts, kind="stable")
    bin_of_row = np.empty(len(corpus), np.int64)
    bin_of_row[order] = np.arange(len(corpus)) * NUM_BINS // len(corpus)

    def shares(rows: Ints) -> list[float]:
        counts = np.bincount(bin_of_row[rows], minlength=NUM_BINS)
        return (counts / max(len(rows), 1)).tolist()

    lists = {name: ranking.top_rows[ranking.top_rows >= 0] for name, ranking in rankings.items()}
    return {
        "consumed": shares(evaluation_set.positives.candidate_rows),
        **{name: shares(rows) for name, rows in lists.items()},
    }


def evenly_spaced(num_entries: int, wanted: int) -> Ints:
    """At most `wanted` positions, evenly over 0 .. num_entries - 1."""
    return np.unique(np.linspace(0, num_entries - 1, min(wanted, num_entries)).astype(np.int64))


def users(
    data: PreparedData,
    corpus: Corpus,
    evaluation_set: EvaluationSet,
    ranking: Ranking,
    named: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A few users as examples: their history, what is recommended to them, what they chose.

    Args:
        data: The prepared folder.
        corpus: Its candidates.
        evaluation_set: The queries.
        ranking: What the model ranked for them.
        named: Ids of the users; none: some with positives in train, evenly spaced by id.

    Returns:
        For each its `query_id`, `history` that the query held (newest first), `recommended`
        and `chosen` (the relevant candidates with their ranks): lists of `candidate_id`, `title`
        and, beside those, `is_relevant` or `rank`.

    Raises:
        UserError: If a named user is not among the queries.
    """
    query_ids = data.query_ids()[evaluation_set.query_rows]
    if named:
        places = np.array([_place(query_ids, query_id) for query_id in named], np.int64)
    else:
        is_warm = np.isin(evaluation_set.query_rows, data.known_positives()[0])
        of_interest = np.flatnonzero(is_warm) if is_warm.any() else np.arange(len(query_ids))
        places = of_interest[evenly_spaced(len(of_interest), NUM_USERS)]
    titles = candidate_titles(data)
    histories = _histories(data, corpus, evaluation_set, places)

    def shown(candidate_id: str, **more: object) -> dict[str, object]:
        return {"candidate_id": candidate_id, "title": titles.get(candidate_id, ""), **more}

    found = []
    for place, history in zip(places.tolist(), histories, strict=True):
        first, last = np.searchsorted(evaluation_set.positives.queries, [place, place + 1])
        rows = evaluation_set.positives.candidate_rows[first:last]
        top = ranking.top_rows[place]
        chosen = sorted(zip(ranking.ranks[first:last].tolist(), rows.tolist(), strict=True))
        found.append(
            {
                "query_id": str(query_ids[place]),
                "history": [shown(candidate_id) for candidate_id in history[::-1][:NUM_SHOWN]],
                "recommended": [
                    shown(str(corpus.candidate_ids[row]), is_relevant=bool(row in rows))
                    for row in top[top >= 0].tolist()
                ],
                "chosen": [
                    shown(str(corpus.candidate_ids[row]), rank=rank)
                    for rank, row in chosen[:NUM_SHOWN]
                ],
            }
        )
    return found


def _place(query_ids: npt.NDArray[np.str_], query_id: str) -> int:
    places = np.flatnonzero(query_ids == query_id)
    if not len(places):
        raise UserError(
            f"user {query_id!r} is not among the {len(np.unique(query_ids)):,} users evaluated: "
            f"expected an id such as {str(query_ids[0])!r}"
        )
    return int(places[0])


def candidate_titles(data: PreparedData) -> dict[str, str]:
    """Title by candidate id, for those that have one."""
    candidates = data.candidate_table()
    if TITLE not in candidates.column_names:
        return {}
    table = candidates.select([layout.CANDIDATE_ID, TITLE]).to_pandas().dropna()
    return dict(zip(table[layout.CANDIDATE_ID], table[TITLE].astype(str), strict=True))


def _histories(
    data: PreparedData, corpus: Corpus, evaluation_set: EvaluationSet, places: Ints
) -> list[list[str]]:
    """The histories that some queries held, oldest first.

    Of a model that reads no history: what the queries had at the end of train.
    """
    config = data.config
    if config.history is None or config.candidate_id is None:
        return _stored_histories(data, data.query_ids()[evaluation_set.query_rows[places]].tolist())
    rows = corpus.history_rows
    first = FIRST_OOV_ROW + config.candidate_id.feature.oov_buckets
    ids = dict(zip(rows[rows >= first].tolist(), corpus.candidate_ids[rows >= first], strict=True))
    return [
        [str(ids.get(row, UNKNOWN)) for row in history if row]
        for history in evaluation_set.features[config.history.name][places].tolist()
    ]


def _stored_histories(data: PreparedData, query_ids: list[str]) -> list[list[str]]:
    files = data.files(layout.QUERIES)
    columns = [layout.QUERY_ID, layout.HISTORY_TRAIN_END]
    wanted = ds.field(layout.QUERY_ID).isin(query_ids)
    table = ds.dataset(files).to_table(columns=columns, filter=wanted).to_pandas()
    histories = table.set_index(layout.QUERY_ID)[layout.HISTORY_TRAIN_END]
    return [list(histories[query_id]) for query_id in query_ids]

"""What metrics do not say: the data behind them, whom lists favour, what moves them, and people.

All of it is plain values, as the evaluation's JSON holds them and the report draws them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as ds

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]

TITLE = "title"
UNKNOWN = "(unknown)"  # A candidate of a history that train does not have.
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
    """What the data is: sizes, time ranges, split, rejects, as its manifest says."""
    manifest = data.manifest
    facts = {name: manifest[name] for name in DATA_FACTS if name in manifest}
    return {
        **facts,
        "counts": manifest["counts"],
        "split": data.config.split.model_dump(mode="json"),
    }


def popularity_profile(
    rankings: Mapping[str, Ranking], asked: EvaluationSet, corpus: Corpus
) -> dict[str, list[float]]:
    """Where in the order of popularity lists and choices lie.

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
        "consumed": shares(asked.positives.candidate_rows),
        **{name: shares(rows) for name, rows in lists.items()},
    }


def sensitivity(
    changed: Mapping[str, Ranking], unchanged: Ranking, asked: EvaluationSet, context: Sequence[str]
) -> list[dict[str, Any]]:
    """How much the lists change, and get worse, when a feature says something else.

    Args:
        changed: By feature, what the model ranked when the feature's values were dealt to other
            queries at random.
        unchanged: What it ranked with the right values.
        asked: The queries.
        context: Names of the features of the moment.

    Returns:
        For each feature its name, whether it is of the moment, overlap@10 with the unchanged lists
        (1: the model does not look at it) and recall@10, beside the unchanged recall@10.
    """
    queries, k = asked.positives.queries, NUM_SHOWN
    before = float(metrics.recall_at_k(queries, unchanged.ranks, k).mean())
    return [
        {
            "feature": name,
            "is_context": name in context,
            "overlap_at_10": float(
                np.nanmean(metrics.overlap_at_k(ranking.top_rows, unchanged.top_rows, k))
            ),
            "recall_at_10": float(metrics.recall_at_k(queries, ranking.ranks, k).mean()),
            "recall_at_10_unchanged": before,
        }
        for name, ranking in changed.items()
    ]


def shuffled(asked: EvaluationSet, feature: str, seed: int) -> EvaluationSet:
    """The queries, one feature's values dealt anew among them."""
    order = np.random.default_rng(seed).permutation(len(asked.query_rows))
    return asked._replace(features={**asked.features, feature: asked.features[feature][order]})


def spread(num_entries: int, wanted: int) -> Ints:
    """At most `wanted` positions, evenly over 0 .. num_entries - 1."""
    return np.unique(np.linspace(0, num_entries - 1, min(wanted, num_entries)).astype(np.int64))


def users(
    data: PreparedData,
    corpus: Corpus,
    asked: EvaluationSet,
    ranking: Ranking,
    named: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A handful of users to look at: what they had, what they got, what they chose.

    Args:
        data: The prepared folder.
        corpus: Its candidates.
        asked: The queries.
        ranking: What the model ranked for them.
        named: Ids of the users; none: some with a past, spread over the order of ids.

    Returns:
        For each its `query_id`, `history` as it was asked with (newest first), `recommended`
        and `chosen` (the relevant candidates with their ranks): lists of `candidate_id`, `title`
        and what else is said of it.

    Raises:
        UserError: If a named user is not among the queries.
    """
    query_ids = data.query_ids()[asked.query_rows]
    if named:
        places = np.array([_place(query_ids, query_id) for query_id in named], np.int64)
    else:
        is_warm = np.isin(asked.query_rows, data.known_positives()[0])
        of_interest = np.flatnonzero(is_warm) if is_warm.any() else np.arange(len(query_ids))
        places = of_interest[spread(len(of_interest), NUM_USERS)]
    titles = candidate_titles(data)
    histories = _histories(data, corpus, asked, places)

    def shown(candidate_id: str, **more: object) -> dict[str, object]:
        return {"candidate_id": candidate_id, "title": titles.get(candidate_id, ""), **more}

    found = []
    for place, history in zip(places.tolist(), histories, strict=True):
        first, last = np.searchsorted(asked.positives.queries, [place, place + 1])
        rows = asked.positives.candidate_rows[first:last]
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
    data: PreparedData, corpus: Corpus, asked: EvaluationSet, places: Ints
) -> list[list[str]]:
    """What some queries had, oldest first: what they were asked with.

    Of a model that reads no history: what they had at the end of train.
    """
    config = data.config
    if config.history is None or config.candidate_id is None:
        return _stored_histories(data, data.query_ids()[asked.query_rows[places]].tolist())
    id_name, candidate_id = config.candidate_id
    rows, first = corpus.features[id_name].reshape(-1), FIRST_OOV_ROW + candidate_id.oov_buckets
    ids = dict(zip(rows[rows >= first].tolist(), corpus.candidate_ids[rows >= first], strict=True))
    return [
        [str(ids.get(row, UNKNOWN)) for row in history if row]
        for history in asked.features[config.history.name][places].tolist()
    ]


def _stored_histories(data: PreparedData, query_ids: list[str]) -> list[list[str]]:
    files = sorted(data.folder.glob(f"{layout.QUERIES}-*.parquet"))
    columns = [layout.QUERY_ID, layout.HISTORY_TRAIN_END]
    wanted = ds.field(layout.QUERY_ID).isin(query_ids)
    table = ds.dataset(files).to_table(columns=columns, filter=wanted).to_pandas()
    histories = table.set_index(layout.QUERY_ID)[layout.HISTORY_TRAIN_END]
    return [list(histories[query_id]) for query_id in query_ids]

"""Recommendations for what was chosen, and why; what moves between two answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfrs_twotower.evaluation.explain import LEAST_SHOWN
from tfrs_twotower.evaluation.explore.controls import rule_inputs
from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion, Floats

NUM_NEAREST, NUM_CONTRIBUTIONS = 2, 3
MAX_K = 50
# A history longer than that tells people nothing, and costs.
MAX_HISTORY = 200


@dataclass(frozen=True)
class Selection:
    """What was chosen on the page.

    Attributes:
        query_id: "": nobody known, made up of what follows.
        history: Candidate ids, oldest first.
        values: Of profile and context, by feature; None: not given.
        rules: By the names of `controls.rule_controls`.
        exclude_known: Whether to leave out the history and the query's known positives.
        k: How many candidates.
    """

    query_id: str = ""
    history: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    exclude_known: bool = True
    k: int = 10


@dataclass(frozen=True)
class Recommended:
    """A recommended candidate, and why.

    Attributes:
        rank: From 1.
        row: Of the candidate.
        candidate_id: Its id.
        title: Its title.
        score: By which it was ranked.
        nearest: The titles of the history that are most similar to it, with the cosine.
        contributions: What features of the query add to the score, the largest change first.
    """

    rank: int
    row: int
    candidate_id: str
    title: str
    score: float
    nearest: list[tuple[str, float]]
    contributions: list[tuple[str, float]]


@dataclass(frozen=True)
class Move:
    """Where a candidate is in two lists; None: in the one alone."""

    candidate_id: str
    title: str
    before: int | None
    after: int | None


def known_selection(version: ExploredVersion, query_id: str) -> Selection:
    """What is chosen with a query: all that the version knows of it, by the rules of its config."""
    exclude_known = version.config.rules.exclude_known
    known = version.known_query(query_id)
    if known is None:
        return Selection(query_id, exclude_known=exclude_known)
    return Selection(query_id, known.history, known.values, exclude_known=exclude_known)


def query_of(version: ExploredVersion, selection: Selection) -> dict[str, Any]:
    """The query that the version is asked; features that it does not have are left out."""
    features = version.config.query_features
    query = {name: selection.values.get(name) for name in features}
    if version.query_key in features and selection.query_id:
        query[version.query_key] = selection.query_id
    if version.config.history:
        query[version.config.history.name] = list(selection.history[-MAX_HISTORY:])
    return query


def excluded(version: ExploredVersion, selection: Selection) -> list[str]:
    """The candidates that are not to be recommended, by id."""
    if not selection.exclude_known:
        return []
    known = version.known_query(selection.query_id) if selection.query_id else None
    return sorted({*selection.history, *(known.known_positives if known else ())} - {""})


def recommend(version: ExploredVersion, selection: Selection) -> list[Recommended]:
    """Asks a version.

    Raises:
        UserError: If a value or a rule is refused.
    """
    query = query_of(version, selection)
    [answer] = version.recommender.recommend(
        [query],
        max(1, min(selection.k, MAX_K, version.config.export.max_k)),
        exclude_ids=[excluded(version, selection)],
        **rule_inputs(version, selection.rules),
    )
    ids = list(answer.candidate_ids)
    rows = [version.row_of[candidate_id] for candidate_id in ids]
    return [
        Recommended(rank, row, ids[rank - 1], version.titles[row], score, nearest, adds)
        for rank, (row, score, nearest, adds) in enumerate(
            zip(
                rows,
                answer.scores,
                nearest_of_history(version, selection.history, rows),
                contributions(version, query, ids),
                strict=True,
            ),
            1,
        )
    ]


def nearest_of_history(
    version: ExploredVersion, history: Sequence[str], rows: Sequence[int]
) -> list[list[tuple[str, float]]]:
    """For each row the titles of the history that are most similar to it, with the cosine."""
    known = [version.row_of[name] for name in dict.fromkeys(history) if name in version.row_of]
    if not known:
        return [[] for _ in rows]
    similarities = (
        unit_rows(version.embeddings[list(rows)]) @ unit_rows(version.embeddings[known]).T
    )
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :NUM_NEAREST]
    return [
        [(version.titles[known[place]], float(similarities[number, place])) for place in places]
        for number, places in enumerate(best.tolist())
    ]


def contributions(
    version: ExploredVersion, query: Mapping[str, Any], candidate_ids: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """For each candidate what the query's features add: the score less that without the feature.

    Features interact, so they do not sum to the score; see `evaluation.explain`.
    """
    names = [name for name, value in query.items() if value not in (None, "", [])]
    if not names or not candidate_ids:
        return [[] for _ in candidate_ids]
    queries = [query, *({**query, name: None} for name in names)]
    scores = np.array(version.recommender.score(queries, list(candidate_ids)), np.float64)
    adds = scores[:1] - scores[1:]
    shown = []
    for column in adds.T.tolist():
        ordered = sorted(zip(names, column, strict=True), key=lambda one: (-abs(one[1]), one[0]))
        shown.append([one for one in ordered if abs(one[1]) >= LEAST_SHOWN][:NUM_CONTRIBUTIONS])
    return shown


def moves(before: Sequence[Recommended], after: Sequence[Recommended]) -> list[Move]:
    """Where each candidate is in both lists: those of `after` by rank, then those that are gone."""
    ranks_before = {one.candidate_id: one.rank for one in before}
    ranks_after = {one.candidate_id: one.rank for one in after}
    there = [
        Move(one.candidate_id, one.title, ranks_before.get(one.candidate_id), one.rank)
        for one in after
    ]
    gone = [
        Move(one.candidate_id, one.title, one.rank, None)
        for one in before
        if one.candidate_id not in ranks_after
    ]
    return there + gone


def unit_rows(embeddings: Floats) -> Floats:
    """The rows with length 1; zero rows stay."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, 1e-12)

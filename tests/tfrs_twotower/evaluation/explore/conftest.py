"""A version with six candidates in a plane, answered by a recommender computed by hand."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion
from tfrs_twotower.schema import parse_config

CONFIG = """\
columns: {query_id: user, candidate_id: item, timestamp: ts, title: title}
features:
  query:
    user: {kind: id}
    city: {kind: categorical}
    history: {kind: history, length: 3}
  context:
    clock: {kind: timestamp, column: ts, time_zone: Europe/Paris}
    device: {kind: categorical}
  candidate:
    item: {kind: id}
    kinds: {kind: multi_categorical}
    price: {kind: number}
rules: {filters: [kinds], ranges: [price]}
"""
IDS = ["a", "b", "c", "d", "e", "f"]
PLANE = np.array([[1, 0], [0.8, 0.6], [0, 1], [-0.6, 0.8], [-1, 0], [0, -1]], np.float32)


class Answer:
    def __init__(self, candidate_ids, scores):
        self.candidate_ids = candidate_ids
        self.scores = scores


class InThePlane:
    """Scores by the mean of the history; a city adds 0.25 to every score, a device nothing."""

    def __init__(self):
        self.asked = []

    def recommend(self, queries, k, *, exclude_ids, **rules):
        self.asked.append((queries, k, exclude_ids, rules))
        answers = []
        for query, excluded in zip(queries, exclude_ids, strict=True):
            scores = self._scores(query)
            rows = [row for row in np.argsort(-scores, kind="stable") if IDS[row] not in excluded]
            answers.append(Answer([IDS[row] for row in rows[:k]], scores[rows[:k]].tolist()))
        return answers

    def score(self, queries, candidate_ids):
        rows = [IDS.index(name) for name in candidate_ids]
        return [self._scores(query)[rows].tolist() for query in queries]

    def _scores(self, query):
        rows = [IDS.index(name) for name in query.get("history") or () if name in IDS]
        mean = PLANE[rows].mean(0) if rows else np.zeros(2, np.float32)
        return PLANE @ mean + (0.25 if query.get("city") else 0.0)


def make_version(number=1, config=CONFIG, **changes):
    parts = {
        "number": number,
        "config": parse_config(config, "test"),
        "recommender": InThePlane(),
        "rule_inputs": frozenset(
            ("k", "exclude_ids", "allow_ids", "mmr_lambda", "min_score")
            + ("filter_kinds_any", "filter_kinds_none", "filter_price_min", "filter_price_max")
        ),
        "candidates": pd.DataFrame(
            {
                "candidate_id": IDS,
                "title": ["Red Tea", "Green tea", "Milk", None, "Old Wine", "New <b>Wine</b>"],
                "kinds": [["tea"], ["tea", "green"], ["milk"], None, ["wine"], ["wine"]],
                "price": [1.5, 2.0, np.nan, 4.0, 10.0, 9.0],
            }
        ),
        "embeddings": PLANE,
        "queries": pa.table(
            {
                "user": ["u1", "u2", "u30"],
                "city": ["Rome", None, "Oslo"],
                "history": [["a"], ["c", "e"], []],
                "exclude_ids": [["a", "b"], ["c", "e"], ["c"]],
            }
        ),
        "query_key": "user",
        "tokens": {"city": ["Rome", "Oslo"], "device": ["phone", "desk"]},
    }
    return ExploredVersion(**{**parts, **changes})


@pytest.fixture
def version():
    return make_version()

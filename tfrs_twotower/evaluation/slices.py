"""Slices of an evaluation: kinds of queries, kinds of relevant candidates, feature values."""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.schema.features import Boolean, Categorical, Feature, MultiCategorical

Bools = npt.NDArray[np.bool_]

ALL, WARM, COLD = "all", "warm", "cold"
KNOWN_CANDIDATES, NEW_CANDIDATES = "known candidates", "new candidates"
HEAD, TAIL = "head", "tail"
HEAD_SHARE = 0.2
# Of a feature's values the most frequent ones.
MAX_VALUES = 8


class Slice(NamedTuple):
    """A part of the queries, or of their relevant candidates.

    A slice of the relevant candidates leaves the others out as if they were not relevant, and with
    them the queries that have none left; what is ranked stays the same.
    """

    is_positive: Bools  # [num_positives] which relevant candidates belong to it.
    is_of_queries: bool  # Whether it is whole queries.


def slices_of(
    data: PreparedData, corpus: Corpus, evaluation_set: EvaluationSet
) -> dict[str, Slice]:
    """The slices of an evaluation set by name.

    * all; warm, cold: queries with and without a positive in train;
    * known and new candidates: with and without a positive in train;
    * head, tail: the fifth of the corpus that is most popular in train, and the rest;
    * `feature=value` for every categorical and boolean feature: of the query or the context, slices
      of the queries; of the candidate, slices of the relevant candidates. The most frequent
      values, then "(12 others)" together; missing ones are "(none)", rare ones "(unknown)". A
      feature with several values belongs to the slice of each.

    Returns:
        The slices; a slice may be empty.
    """
    queries, rows = evaluation_set.positives
    is_warm = np.isin(evaluation_set.query_rows, data.known_positives()[0])
    counts = corpus.train_counts[rows]
    is_head = is_in_head(corpus)[rows]
    slices = {
        ALL: Slice(np.ones(len(rows), np.bool_), True),
        WARM: Slice(is_warm[queries], True),
        COLD: Slice(~is_warm[queries], True),
        KNOWN_CANDIDATES: Slice(counts > 0, False),
        NEW_CANDIDATES: Slice(counts == 0, False),
        HEAD: Slice(is_head, False),
        TAIL: Slice(~is_head, False),
    }
    config = data.config
    for name, feature in config.query_features.items():
        for value, chosen in _values(data, name, feature, evaluation_set.features).items():
            slices[f"{name}={value}"] = Slice(chosen[queries], True)
    for name, feature in config.candidate_features.items():
        for value, chosen in _values(data, name, feature, corpus.features).items():
            slices[f"{name}={value}"] = Slice(chosen[rows], False)
    return slices


def is_in_head(corpus: Corpus) -> Bools:
    """`[corpus_size]` whether a candidate is of the most popular fifth; equal counts by id."""
    by_count = np.argsort(-corpus.train_counts, kind="stable")
    is_head = np.zeros(len(corpus), np.bool_)
    is_head[by_count[: int(np.ceil(HEAD_SHARE * len(corpus)))]] = True
    return is_head


def _values(
    data: PreparedData, name: str, feature: Feature, encoded: dict[str, np.ndarray]
) -> dict[str, Bools]:
    """Which entries have each of a feature's most frequent values, and which one of the others."""
    if isinstance(feature, Boolean):
        numbers = encoded[name].reshape(-1)
        return {
            "true": numbers == 1.0,
            "false": numbers == 0.0,
            **({"(none)": np.isnan(numbers)} if np.isnan(numbers).any() else {}),
        }
    if not isinstance(feature, Categorical | MultiCategorical):
        return {}
    rows = encoded[name].reshape(len(encoded[name]), -1)
    first = FIRST_OOV_ROW + feature.oov_buckets
    with open(data.vocabulary_dir / f"{name}.txt", encoding="utf-8", newline="\n") as lines:
        tokens = [line.removesuffix("\n") for line in itertools.islice(lines, MAX_VALUES)]
        num_others = sum(1 for _ in lines)
    values = {token: (rows == first + place).any(1) for place, token in enumerate(tokens)}
    others = {
        f"({num_others:,} others)": (rows >= first + MAX_VALUES).any(1),
        "(none)": (rows < FIRST_OOV_ROW).all(1),
        "(unknown)": ((rows >= FIRST_OOV_ROW) & (rows < first)).any(1),
    }
    return {**values, **{label: chosen for label, chosen in others.items() if chosen.any()}}

"""A version of a models folder in memory: its candidates, its queries, and what answers for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tfrs_twotower.evaluation.explore.text_search import TextSearch
from tfrs_twotower.publishing.indexes import EMBEDDING, matrix
from tfrs_twotower.publishing.models_folder import TITLE, asked_model, query_key, read_config
from tfrs_twotower.publishing.signature_reference import signatures
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Categorical, History, Id, MultiCategorical, Timestamp
from tfrs_twotower.schema.models_layout import (
    CANDIDATES,
    EXCLUDE_IDS,
    QUERIES,
    QUERY_TOWER,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Answer(Protocol):
    """Candidates and their scores, best first."""

    @property
    def candidate_ids(self) -> list[str]:
        """The ids."""

    @property
    def scores(self) -> list[float]:
        """One a candidate."""


class Recommender(Protocol):
    """What answers for a version; `serving.RetrievalClient` does."""

    @property
    def recommend(self) -> Callable[..., Sequence[Answer]]:
        """The best candidates of each query: takes queries, `k`, `exclude_ids`, rules by name."""

    def score(
        self, queries: Sequence[Mapping[str, Any]], candidate_ids: Sequence[str]
    ) -> list[list[float]]:
        """The scores of the given candidates for each query."""


@dataclass(frozen=True)
class KnownQuery:
    """What the models folder holds of a query.

    Attributes:
        values: Of the profile, by feature.
        history: Candidate ids, oldest first; of a model that reads no history the known positives,
            by id.
        known_positives: Candidate ids.
    """

    values: Mapping[str, Any]
    history: tuple[str, ...] = ()
    known_positives: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExploredVersion:
    """A version, read once.

    Attributes:
        number: Of the version.
        config: It was exported with.
        recommender: Answers for it.
        rule_inputs: The optional inputs of `recommend`.
        candidates: A row a candidate: `candidate_id`, its title and attributes.
        embeddings: `[num_candidates, embedding_dim]` float32.
        queries: A row a query, as the models folder has it.
        query_key: The column of the queries' ids.
        tokens: The vocabularies of categories by feature, the most frequent tokens first.
    """

    number: int
    config: Config
    recommender: Recommender
    rule_inputs: frozenset[str]
    candidates: pd.DataFrame
    embeddings: Floats
    queries: pa.Table
    query_key: str
    tokens: Mapping[str, list[str]]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each candidate, by id."""
        return {name: row for row, name in enumerate(self.candidates[CANDIDATE_ID])}

    @cached_property
    def titles(self) -> list[str]:
        """A title a candidate; its id where it has none."""
        ids = self.candidates[CANDIDATE_ID].astype(str)
        return list(
            self.candidates[TITLE].fillna(ids).astype(str) if TITLE in self.candidates else ids
        )

    def attributes(self, row: int) -> dict[str, str]:
        """A candidate's attributes as text, those that it has, without its title."""
        shown = {}
        for name, value in self.candidates.iloc[row].items():
            if name in (CANDIDATE_ID, TITLE):
                continue
            if text := _text(value, is_time=str(name) in self._times):
                shown[str(name)] = text
        return shown

    @cached_property
    def num_queries(self) -> Ints:
        """`[num_candidates]`: how many queries have a candidate among their positives."""
        column = EXCLUDE_IDS if EXCLUDE_IDS in self.queries.column_names else self._history
        counts = np.zeros(len(self.candidates), np.int64)
        if column is None or column not in self.queries.column_names:
            return counts
        for entry in pc.value_counts(pc.list_flatten(self.queries[column])).to_pylist():
            row = self.row_of.get(entry["values"])
            if row is not None:
                counts[row] = entry["counts"]
        return counts

    @cached_property
    def by_popularity(self) -> Ints:
        """`[num_candidates]`: the rows, the most popular first; equal ones in their order."""
        return np.argsort(-self.num_queries, kind="stable")

    @cached_property
    def candidate_search(self) -> TextSearch:
        """Finds candidates, the most popular first."""
        ids = pa.array(self.candidates[CANDIDATE_ID], pa.string())
        return TextSearch(ids, self.titles, self.by_popularity)

    @cached_property
    def query_search(self) -> TextSearch:
        """Finds queries."""
        return TextSearch(self.queries[self.query_key].combine_chunks())

    def query_id(self, row: int) -> str:
        """The id of a query."""
        return str(self.queries[self.query_key][row].as_py())

    def known_query(self, query_id: str) -> KnownQuery | None:
        """What is known of a query; None where nothing is."""
        found = self.queries.filter(pc.equal(self.queries[self.query_key], query_id))
        if not len(found):
            return None
        [row] = found.slice(0, 1).to_pylist()
        positives = tuple(row.get(EXCLUDE_IDS) or ())
        history = positives if self._history is None else tuple(row.get(self._history) or ())
        values = {
            name: row[name]
            for name, feature in self.config.features.query.items()
            if not isinstance(feature, History | Id) and row.get(name) is not None
        }
        return KnownQuery(values, history, positives)

    @property
    def reads_history(self) -> bool:
        """Whether the history changes the scores."""
        return self._history is not None

    @property
    def _history(self) -> str | None:
        return self.config.history.name if self.config.history else None

    @cached_property
    def _times(self) -> frozenset[str]:
        rules, features = self.config.rules, self.config.candidate_features.items()
        named = (rules.available_from, rules.available_until, rules.timestamp)
        times = {name for name, feature in features if isinstance(feature, Timestamp)}
        return frozenset(times | {"available_from"} | {name for name in named if name})


def read_version(models: Path, number: int, recommender: Recommender) -> ExploredVersion:
    """Reads the tables of a version.

    Args:
        models: The models folder.
        number: A whole version.
        recommender: Answers for it.

    Raises:
        UserError: If the version is damaged.
    """
    config = read_config(models, number)
    table = ds.dataset(models / CANDIDATES / str(number)).to_table()
    vectors = [
        field.name
        for field in table.schema
        if hasattr(field.type, "value_type") and pa.types.is_floating(field.type.value_type)
    ]
    [recommend] = [
        found
        for found in signatures(models, asked_model(models, number), number)
        if found.name == "recommend"
    ]
    assets = models / QUERY_TOWER / str(number) / "assets"
    return ExploredVersion(
        number=number,
        config=config,
        recommender=recommender,
        rule_inputs=frozenset(one.name for one in recommend.inputs if one.is_optional),
        candidates=table.drop_columns(vectors).to_pandas(),
        embeddings=matrix(table, EMBEDDING),
        queries=ds.dataset(models / QUERIES / str(number)).to_table(),
        query_key=query_key(models, number),
        tokens={
            name: _lines(assets / f"{name}.txt")
            for name, feature in config.query_features.items()
            if isinstance(feature, Categorical | MultiCategorical)
        },
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _text(value: Any, *, is_time: bool) -> str:
    if isinstance(value, list | np.ndarray):
        return ", ".join(str(part) for part in value)
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return ""
    if is_time and isinstance(value, int | np.integer | float) and value > 0:
        return datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%d")
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)

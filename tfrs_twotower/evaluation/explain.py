"""Why a candidate has its score: similar candidates of the history, and what each feature adds.

What a feature adds is the score less the score with its value missing. Features interact, so the
contributions do not sum to the score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.dataset as ds

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.insights import candidate_titles
from tfrs_twotower.features.raw_inputs import missing_input, one_query_inputs
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema import Config, UsageError, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import History, Id
from tfrs_twotower.schema.results import Tabular

NUM_NEAREST = 5
# Smaller changes of a score are not worth a number.
LEAST_SHOWN = 0.0005

Floats = npt.NDArray[np.float32]


class Neighbour(NamedTuple):
    """A candidate of the history; `similarity` is the cosine to the explained one."""

    candidate_id: str
    title: str
    similarity: float


class Contribution(NamedTuple):
    """What a feature adds to the score; `side` is query, context or candidate."""

    feature: str
    side: str
    adds: float


@dataclass(frozen=True, repr=False)
class Explanation(Tabular):
    """Why a candidate has its score for a query.

    Attributes:
        query: The values that the query was scored with.
        is_known: Whether the data has the query's id; true where none is given.
        candidate_id: The candidate.
        candidate_title: Its title; "" where it has none.
        score: Of the pair.
        rank: Of the candidate among the whole corpus, from 1.
        corpus_size: Number of candidates.
        nearest: The candidates of the query's history that are most similar to this one.
        contributions: What each feature adds to the score, the largest first.
    """

    query: dict[str, Any]
    is_known: bool
    candidate_id: str
    candidate_title: str
    score: float
    rank: int
    corpus_size: int
    nearest: list[Neighbour]
    contributions: list[Contribution]

    @property
    def title(self) -> str:
        """The candidate with its score and rank."""
        name = _named(self.candidate_id, self.candidate_title)
        return f"{name} scores {self.score:.3f}: rank {self.rank:,} of {self.corpus_size:,}."

    def to_frame(self) -> pd.DataFrame:
        """A row a feature: its side and what it adds to the score."""
        return pd.DataFrame(self.contributions, columns=Contribution._fields).set_index("feature")

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "query": self.query,
            "is_known": self.is_known,
            "candidate_id": self.candidate_id,
            "title": self.candidate_title,
            "score": self.score,
            "rank": self.rank,
            "corpus_size": self.corpus_size,
            "nearest": [one._asdict() for one in self.nearest],
            "contributions": [one._asdict() for one in self.contributions],
        }

    def in_words(self) -> list[str]:
        """A few sentences."""
        lines = [self.title]
        if not self.is_known:
            lines.append("The query's id is unknown: only the other features were used.")
        if self.nearest:
            near = ", ".join(
                f"{_named(one.candidate_id, one.title)} ({one.similarity:.2f})"
                for one in self.nearest
            )
            lines.append(f"Of the history it is most similar to {near}.")
        else:
            lines.append("There is no history to compare it with.")
        for one in self.contributions:
            if abs(one.adds) < LEAST_SHOWN:
                lines.append(f"The {one.side}'s {one.feature} changes nothing.")
                continue
            change = f"adds {one.adds:.3f}" if one.adds > 0 else f"takes {-one.adds:.3f} away"
            without = self.score - one.adds
            lines.append(
                f"The {one.side}'s {one.feature} {change}: without it the score would be "
                f"{without:.3f}."
            )
        return lines


def explain(
    run: str | Path, data: str | Path, query: Mapping[str, Any], candidate_id: str
) -> Explanation:
    """Explains the score of a candidate for a query.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        query: Values by feature name; what the data knows of the query (profile, history) is filled
            in where it is not given.
        candidate_id: The candidate.

    Raises:
        UserError: If a folder is unusable, or the corpus has no such candidate.
        UsageError: If the query has a name that is no feature, or a value that does not fit.
    """
    loaded = load_run(run, data)
    config, model = loaded.config, loaded.model
    corpus = loaded.data.corpus()
    [places] = np.nonzero(corpus.candidate_ids == candidate_id)
    if not len(places):
        raise UserError(
            f"no candidate {candidate_id!r} in {data}: expected an id such as "
            f"{str(corpus.candidate_ids[0])!r}"
        )
    row = int(places[0])
    known, is_known = _known_query(loaded.data, query)
    embeddings = embed(model.candidate_tower, corpus.features)
    # First the whole query, then the query without each of its features.
    names = [
        name
        for name, feature in config.query_features.items()
        if name in known and (is_known or not isinstance(feature, Id))
    ]
    queries = _query_embeddings(loaded.data, model, [known, *(_without(known, n) for n in names)])
    scores = _scores(model, queries[:1], embeddings)[0]
    of_candidate = _scores(model, queries[1:], embeddings[row : row + 1])[:, 0]
    contributions = [
        Contribution(name, "context" if name in config.features.context else "query", adds)
        for name, adds in zip(names, (scores[row] - of_candidate).tolist(), strict=True)
    ]
    for name, embedding in _candidate_without(loaded.data, model, corpus.features, row).items():
        adds = float(scores[row] - _scores(model, queries[:1], embedding)[0, 0])
        contributions.append(Contribution(name, "candidate", adds))
    titles = candidate_titles(loaded.data)
    return Explanation(
        query=known,
        is_known=is_known,
        candidate_id=candidate_id,
        candidate_title=titles.get(candidate_id, ""),
        score=float(scores[row]),
        rank=1 + int((scores > scores[row]).sum()) + int((scores[:row] == scores[row]).sum()),
        corpus_size=len(corpus),
        nearest=_nearest(config, known, corpus.candidate_ids, embeddings, row, titles),
        contributions=sorted(contributions, key=lambda one: (-abs(one.adds), one.feature)),
    )


def _known_query(data: PreparedData, query: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The given values, completed from the prepared folder, without missing ones.

    Returns:
        The values, and whether the folder has the query's id; true where none is given.
    """
    config = data.config
    features = config.features.query
    key_name = config.query_id.name if config.query_id else config.columns.query_id
    unknown = sorted(query.keys() - config.query_features.keys() - {key_name})
    if unknown:
        raise UsageError(
            f"{unknown[0]} is no query or context feature: expected some of "
            f"{', '.join(dict.fromkeys([key_name, *config.query_features]))}"
        )
    found: dict[str, Any] = {}
    is_known = True
    if key_name in query:
        files = data.files(layout.QUERIES)
        is_query = ds.field(layout.QUERY_ID) == str(query[key_name])
        rows = ds.dataset(files).to_table(filter=is_query).to_pylist()
        is_known = bool(rows)
        for name, feature in features.items() if is_known else ():
            column = layout.HISTORY_NOW if isinstance(feature, History) else name
            found[name] = query[key_name] if isinstance(feature, Id) else rows[0].get(column)
    found |= {name: value for name, value in query.items() if name in config.query_features}
    return {name: v for name, v in found.items() if v not in (None, [], "")}, is_known


def _without(query: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in query.items() if other != name}


def _query_embeddings(
    data: PreparedData, model: TwoTowerModel, queries: list[dict[str, Any]]
) -> Floats:
    """`[num_queries, embedding_dim]`, one by one: queries without a feature differ in inputs."""
    features = data.config.query_features
    encoder = data.query_encoder()
    return np.concatenate(
        [embed(model.query_tower, encoder(one_query_inputs(features, query))) for query in queries]
    )


def _candidate_without(
    data: PreparedData, model: TwoTowerModel, features: dict[str, np.ndarray], row: int
) -> dict[str, Floats]:
    """The candidate's embedding without each of its features, `[1, embedding_dim]`."""
    described = data.config.candidate_features
    missing = data.candidate_encoder()(
        {name: missing_input(feature, name, 1) for name, feature in described.items()}
    )
    own = {name: values[row : row + 1] for name, values in features.items()}
    return {
        name: embed(model.candidate_tower, {**own, name: missing[name].numpy()})
        for name in described
    }


def _scores(model: TwoTowerModel, queries: Floats, candidates: Floats) -> Floats:
    """`[num_queries, num_candidates]` float32."""
    if not len(queries):
        return np.zeros([0, len(candidates)], np.float32)
    return model.scorer.matrix(queries, candidates)


def _nearest(
    config: Config,
    query: Mapping[str, Any],
    candidate_ids: npt.NDArray[np.str_],
    embeddings: Floats,
    row: int,
    titles: Mapping[str, str],
) -> list[Neighbour]:
    ids = dict.fromkeys(query.get(config.history.name, ()) if config.history else ())
    rows = np.flatnonzero(np.isin(candidate_ids, list(ids)))
    rows = rows[rows != row]
    similarities = embeddings[rows] @ embeddings[row]
    best = np.argsort(-similarities, kind="stable")[:NUM_NEAREST]
    return [
        Neighbour(
            str(candidate_ids[rows[place]]),
            titles.get(str(candidate_ids[rows[place]]), ""),
            float(similarities[place]),
        )
        for place in best.tolist()
    ]


def _named(candidate_id: str, title: str) -> str:
    return f"{title} ({candidate_id})" if title else candidate_id

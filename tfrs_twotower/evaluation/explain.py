"""Why a candidate is recommended: the nearest of the history, and what each feature adds.

What a feature adds is the score less the score without it, where its value is missing. Features
work together, so what they add does not add up to the score.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
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

NUM_NEAREST = 5
# Smaller changes of a score are nothing to speak of.
LEAST_TOLD = 0.0005

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


class Explanation(NamedTuple):
    """Why a candidate has its score for a query.

    `is_known`: whether the data knows the query's id, true where none is given; `rank`: that among
    the whole corpus.
    """

    query: dict[str, Any]
    is_known: bool
    candidate_id: str
    title: str
    score: float
    rank: int
    corpus_size: int
    nearest: list[Neighbour]
    contributions: list[Contribution]

    def in_words(self) -> list[str]:
        """A few sentences."""
        name = _named(self.candidate_id, self.title)
        lines = [f"{name} scores {self.score:.3f}: rank {self.rank:,} of {self.corpus_size:,}."]
        if not self.is_known:
            lines.append("The query's id is not known: only what else was given speaks.")
        if self.nearest:
            near = ", ".join(
                f"{_named(one.candidate_id, one.title)} ({one.similarity:.2f})"
                for one in self.nearest
            )
            lines.append(f"Of the history it is nearest to {near}.")
        else:
            lines.append("There is no history to compare it with.")
        for one in self.contributions:
            if abs(one.adds) < LEAST_TOLD:
                lines.append(f"The {one.side}'s {one.feature} changes nothing.")
                continue
            does = f"adds {one.adds:.3f}" if one.adds > 0 else f"takes {-one.adds:.3f} away"
            without = self.score - one.adds
            lines.append(
                f"The {one.side}'s {one.feature} {does}: without it the score would be "
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
        UserError: If a folder does not serve, or the corpus has no such candidate.
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
    # The query as it is, then without each of its features.
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
        title=titles.get(candidate_id, ""),
        score=float(scores[row]),
        rank=1 + int((scores > scores[row]).sum()) + int((scores[:row] == scores[row]).sum()),
        corpus_size=len(corpus),
        nearest=_nearest(config, known, corpus.candidate_ids, embeddings, row, titles),
        contributions=sorted(contributions, key=lambda one: (-abs(one.adds), one.feature)),
    )


def _known_query(data: PreparedData, query: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The given values and those that the data has of the query, without missing ones.

    Returns:
        The values, and whether the data knows the query's id, true where none is given.
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
        files = sorted(data.folder.glob(f"{layout.QUERIES}-*.parquet"))
        is_asked = ds.field(layout.QUERY_ID) == str(query[key_name])
        rows = ds.dataset(files).to_table(filter=is_asked).to_pylist()
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
    """One by one, for what a query does not name has no type; `[num_queries, embedding_dim]`."""
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
    scorer = getattr(model, "scorer", None)
    return scorer.matrix(queries, candidates) if scorer else queries @ candidates.T


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

"""Where recall is lost: for every relevant candidate that is not answered, who missed it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.context import ScoringLayer
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.index import CandidateIndex, Measures, ScannIndex
from tfrs_twotower.keras import tf
from tfrs_twotower.models_folder import (
    asked_model,
    latest_version,
    read_candidates,
    read_model_manifest,
)
from tfrs_twotower.ranking import Pairs, Ranking
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.config import Index as IndexConfig
from tfrs_twotower.schema.models import RETRIEVAL
from tfrs_twotower.scored_index import exact_index

Ints = npt.NDArray[np.int64]
QUERIES_AT_ONCE = 256
SAME_EMBEDDINGS = 1e-5


class Attribution(NamedTuple):
    """Relevant candidates by what became of them; together they are all there are.

    `found`: among the first k of the answer. `missed_by_model`: exact search ranks it after k.
    `missed_by_index`: exact search has it among the first k, the index does not answer it.
    `missed_by_rule`: not eligible, as the query had it before.
    """

    k: int
    found: int
    missed_by_model: int
    missed_by_index: int
    missed_by_rule: int

    @property
    def total(self) -> int:
        """All relevant candidates."""
        return sum(self[1:])


def attribute(
    exact: Ranking, answered: Pairs, asked: EvaluationSet, corpus_size: int, k: int
) -> Attribution:
    """Sorts the relevant candidates of an evaluation set.

    Args:
        exact: What exact ranking found for the eligible ones.
        answered: The first k eligible candidates that the index answers each query with.
        asked: The queries; `num_known` of their relevant candidates are not eligible.
        corpus_size: Number of candidates.
        k: How many candidates an answer has.
    """
    is_answered = np.isin(
        asked.positives.queries * corpus_size + asked.positives.candidate_rows,
        answered.queries * corpus_size + answered.candidate_rows,
    )
    is_missed = ~is_answered
    return Attribution(
        k=k,
        found=int(is_answered.sum()),
        missed_by_model=int((is_missed & (exact.ranks > k)).sum()),
        missed_by_index=int((is_missed & (exact.ranks <= k)).sum()),
        missed_by_rule=asked.num_known,
    )


def answered_by(
    index: CandidateIndex, query_embeddings: npt.NDArray[np.float32], excluded: Pairs, k: int
) -> Pairs:
    """What an index answers: as served, enough is asked for to fill k after the exclusions.

    Args:
        index: The corpus.
        query_embeddings: `[num_queries, embedding_dim]`.
        excluded: Candidates that are not eligible for a query.
        k: How many candidates an answer has.

    Returns:
        At most k pairs a query.
    """
    answers = []
    size = index.num_candidates
    for start in range(0, len(query_embeddings), QUERIES_AT_ONCE):
        end = min(start + QUERIES_AT_ONCE, len(query_embeddings))
        out = excluded.between(start, end)
        most = int(np.bincount(out.queries, minlength=1).max())
        queries = tf.constant(query_embeddings[start:end])
        rows = index.search(queries, tf.constant(k + most))[0].numpy()
        places = np.arange(end - start)[:, np.newaxis] * size
        is_eligible = ~np.isin(places + rows, out.queries * size + out.candidate_rows)
        is_answered = is_eligible & (np.cumsum(is_eligible, axis=1) <= k)
        found = np.nonzero(is_answered)[0]
        answers.append(Pairs(start + found, rows[is_answered]))
    return Pairs(*(np.concatenate(parts) for parts in zip(*answers, strict=True)))


def exported_index(
    models: Path,
    embeddings: npt.NDArray[np.float32],
    config: IndexConfig,
    scorer: ScoringLayer | None = None,
) -> CandidateIndex:
    """The index that the newest version answers by, built again: the same, bit for bit.

    Args:
        models: The models folder.
        embeddings: `[corpus_size, embedding_dim]` of the run, by row.
        config: `index` of the run's config.
        scorer: The layer of the run that scores pairs; None: the dot product.

    Raises:
        UserError: If there are no models, or they hold other embeddings.
    """
    version = latest_version(models)
    stored = np.stack(read_candidates(models, version, ["embedding"])["embedding"].to_list())
    if stored.shape != embeddings.shape or np.abs(stored - embeddings).max() > SAME_EMBEDDINGS:
        raise UserError(
            f"version {version} in {models} was not exported from this run and its data: export it "
            "(`twotower export`), or name the models that belong to it"
        )
    model = asked_model(models, version)
    if model != RETRIEVAL:
        return exact_index(embeddings, scorer)
    parameters = read_model_manifest(models, model, version)["index"]
    measures = None
    if set(Measures._fields) <= parameters.keys():
        measures = Measures(**{name: parameters[name] for name in Measures._fields})
    return ScannIndex(embeddings, config, measures)

"""Where recall is lost: the stage at which each relevant candidate dropped out."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.evaluation.served import NO_CANDIDATE
from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.ivf import IvfIndex
from tfrs_twotower.index.parameters import IndexParameters, IvfParameters
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.scoring_layer import exact_index
from tfrs_twotower.models.scorers import DOT_PRODUCT, Scorer
from tfrs_twotower.publishing.models_folder import (
    asked_model,
    latest_version,
    read_candidates,
    read_model_manifest,
)
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import RETRIEVAL_EXACT, RETRIEVAL_STOCK

Ints = npt.NDArray[np.int64]
SAME_EMBEDDINGS = 1e-5


class Attribution(NamedTuple):
    """Counts of the relevant candidates by what happened to them; they add up to all.

    `found`: among the first k that are served. `missed_by_model`: exact search ranks it after k.
    `missed_by_index`: exact search has it among the first k, the index does not.
    `missed_by_rule`: not eligible, as the query had it before; or among the first k only without
    the rules of the request.
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
    exact: Ranking, found: Ints, ruled: Ints, evaluation_set: EvaluationSet
) -> Attribution:
    """Counts the relevant candidates of an evaluation set by the stage at which they were lost.

    Args:
        exact: What exact ranking found for the eligible ones.
        found: `[num_queries, k]` rows that the index finds for each query; -1: no more.
        ruled: Likewise, under the rules of the request.
        evaluation_set: The queries; `num_known` of their relevant candidates are not eligible.
    """
    k = found.shape[1]
    is_found = _is_among(ruled, evaluation_set.positives)
    by_rule = ~is_found & _is_among(found, evaluation_set.positives)
    is_missed = ~is_found & ~by_rule
    return Attribution(
        k=k,
        found=int(is_found.sum()),
        missed_by_model=int((is_missed & (exact.ranks > k)).sum()),
        missed_by_index=int((is_missed & (exact.ranks <= k)).sum()),
        missed_by_rule=evaluation_set.num_known + int(by_rule.sum()),
    )


def _is_among(top_rows: Ints, positives: Pairs) -> npt.NDArray[np.bool_]:
    """`[num_positives]` whether each is in the list of its query."""
    # One number for each (query, candidate) pair.
    size = 1 + max(top_rows.max(), positives.candidate_rows.max())
    pairs = np.arange(len(top_rows))[:, np.newaxis] * size + top_rows
    wanted = positives.queries * size + positives.candidate_rows
    return np.isin(wanted, pairs[top_rows != NO_CANDIDATE])


def exported_index(
    models: Path,
    embeddings: npt.NDArray[np.float32],
    scorer: Scorer = DOT_PRODUCT,
) -> CandidateIndex:
    """The index of the newest version, built again from its parameters: the same, bit for bit.

    Args:
        models: The models folder.
        embeddings: `[corpus_size, embedding_dim]` of the run, by row.
        scorer: Of the run's model.

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
    if model == RETRIEVAL_EXACT:
        return exact_index(embeddings, scorer)
    description = read_model_manifest(models, model, version)["index"]
    if model == RETRIEVAL_STOCK:
        return IvfIndex(embeddings, IvfParameters.from_description(description))
    return ScannIndex(embeddings, IndexParameters.from_description(description))

"""Where recall is lost: for every relevant candidate that is not answered, who missed it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.evaluation.answers import NO_ANSWER
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.parameters import IndexParameters
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.scoring_layer import exact_index
from tfrs_twotower.models.context_modes import ScoringLayer
from tfrs_twotower.publishing.models_folder import (
    asked_model,
    latest_version,
    read_candidates,
    read_model_manifest,
)
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import RETRIEVAL

Ints = npt.NDArray[np.int64]
SAME_EMBEDDINGS = 1e-5


class Attribution(NamedTuple):
    """Relevant candidates by what became of them; together they are all there are.

    `found`: among the first k of the answer. `missed_by_model`: exact search ranks it after k.
    `missed_by_index`: exact search has it among the first k, the index does not answer it.
    `missed_by_rule`: not eligible, as the query had it before; or the answer has it until the
    rules of the request apply.
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


def attribute(exact: Ranking, found: Ints, ruled: Ints, asked: EvaluationSet) -> Attribution:
    """Sorts the relevant candidates of an evaluation set.

    Args:
        exact: What exact ranking found for the eligible ones.
        found: `[num_queries, k]` rows that the index answers each query with; -1: no answer.
        ruled: Likewise, under the rules of the request.
        asked: The queries; `num_known` of their relevant candidates are not eligible.
    """
    k = found.shape[1]
    is_answered = _is_among(ruled, asked.positives)
    by_rule = ~is_answered & _is_among(found, asked.positives)
    is_missed = ~is_answered & ~by_rule
    return Attribution(
        k=k,
        found=int(is_answered.sum()),
        missed_by_model=int((is_missed & (exact.ranks > k)).sum()),
        missed_by_index=int((is_missed & (exact.ranks <= k)).sum()),
        missed_by_rule=asked.num_known + int(by_rule.sum()),
    )


def _is_among(answers: Ints, positives: Pairs) -> npt.NDArray[np.bool_]:
    """`[num_positives]` whether each is answered."""
    size = 1 + max(answers.max(), positives.candidate_rows.max())
    answered = (np.arange(len(answers))[:, np.newaxis] * size + answers)[answers != NO_ANSWER]
    return np.isin(positives.queries * size + positives.candidate_rows, answered)


def exported_index(
    models: Path,
    embeddings: npt.NDArray[np.float32],
    scorer: ScoringLayer | None = None,
) -> CandidateIndex:
    """The index that the newest version answers by, built again: the same, bit for bit.

    Args:
        models: The models folder.
        embeddings: `[corpus_size, embedding_dim]` of the run, by row.
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
    description = read_model_manifest(models, model, version)["index"]
    return ScannIndex(embeddings, IndexParameters.from_description(description))

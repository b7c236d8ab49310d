"""What every part of an evaluation reads, made once: the corpus, the queries, the embeddings."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation.protocols import EvaluationSet
from tfrs_twotower.evaluation.ranking import Ranking, rank
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.two_tower import TwoTowerModel

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationInputs:
    """A model, what it is evaluated on, and its embeddings of that.

    Attributes:
        model: The two towers.
        data: The prepared folder.
        corpus: Its candidates.
        evaluation_set: The queries.
        candidate_embeddings: `[corpus_size, embedding_dim]` float32, by candidate row.
    """

    model: TwoTowerModel
    data: PreparedData
    corpus: Corpus
    evaluation_set: EvaluationSet
    candidate_embeddings: Floats

    @classmethod
    def read(
        cls, model: TwoTowerModel, data: PreparedData, evaluation_set: EvaluationSet
    ) -> "EvaluationInputs":
        """Reads the corpus and embeds it."""
        corpus = data.corpus()
        candidates = embed(model.candidate_tower, corpus.features)
        return cls(model, data, corpus, evaluation_set, candidates)

    @cached_property
    def query_embeddings(self) -> Floats:
        """`[num_queries, embedding_dim]` float32, in the order of the evaluation set."""
        return embed(self.model.query_tower, self.evaluation_set.features)

    @cached_property
    def query_ids(self) -> npt.NDArray[np.str_]:
        """`[num_queries]`, in the order of the evaluation set; ids of events may repeat."""
        return self.data.query_ids()[self.evaluation_set.query_rows]

    def with_queries(self, evaluation_set: EvaluationSet) -> "EvaluationInputs":
        """The same model and corpus with other queries, which are embedded when they are ranked."""
        return dataclasses.replace(self, evaluation_set=evaluation_set)

    def rank(self, k: int) -> Ranking:
        """Ranks the corpus by the model; lists of the best `k` candidates."""
        return _rank(
            self.model, self.query_embeddings, self.candidate_embeddings, self.evaluation_set, k
        )


def rank_model(
    model: TwoTowerModel, corpus: Corpus, evaluation_set: EvaluationSet, k: int = 0
) -> Ranking:
    """Where a model ranks the relevant candidates of an evaluation set.

    Args:
        model: The two towers.
        corpus: The candidates.
        evaluation_set: The queries.
        k: Length of the lists of best candidates; 0: ranks alone, which is much faster.
    """
    queries = embed(model.query_tower, evaluation_set.features)
    candidates = embed(model.candidate_tower, corpus.features)
    return _rank(model, queries, candidates, evaluation_set, k)


def _rank(
    model: TwoTowerModel,
    queries: Floats,
    candidates: Floats,
    evaluation_set: EvaluationSet,
    k: int,
) -> Ranking:
    return rank(
        queries,
        candidates,
        evaluation_set.positives,
        evaluation_set.excluded,
        k=k,
        listed=evaluation_set.listed,
        score=model.scorer.matrix,
    )

"""How well a model ranks the whole corpus, beside what needs no model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrs_twotower import baselines, metrics
from tfrs_twotower.data import Arrays, Corpus, PreparedData
from tfrs_twotower.keras import keras
from tfrs_twotower.model import TwoTowerModel
from tfrs_twotower.protocols import EvaluationSet, Unit, evaluation_set
from tfrs_twotower.ranking import Ranking, rank
from tfrs_twotower.runs import EVALUATION, load_run
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import write_json

LIST_LENGTH = 10
METRICS = ("recall_at_10", "recall_at_100", "hit_rate_at_10", "ndcg_at_10", "mrr")
COVERAGE = f"coverage_at_{LIST_LENGTH}"
EMBED_BATCH = 4096

Floats = npt.NDArray[np.float32]
Values = dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    `systems`: for "model", each baseline, then each slice of the queries ("all", "warm", "cold")
    the metrics by name, None where the slice is empty; `per_query`: one row a query with its id
    and the ranks of its relevant candidates.
    """

    split: str
    unit: Unit
    num_queries: dict[str, int]
    num_positives: int
    num_known: int
    corpus_size: int
    systems: dict[str, dict[str, Values]]
    per_query: pd.DataFrame

    @property
    def is_below_popularity(self) -> bool:
        """Whether recommending everybody the same popular candidates does better."""
        model, popular = (self.systems[name]["all"] for name in ("model", "popularity"))
        return bool((model[METRICS[0]] or 0.0) < (popular[METRICS[0]] or 0.0))

    def as_dict(self) -> dict[str, Any]:
        """The aggregates, as JSON holds them."""
        return {
            "split": self.split,
            "protocol": "full",
            "unit": self.unit,
            "num_queries": self.num_queries,
            "num_positives": self.num_positives,
            "num_positives_known_before": self.num_known,
            "corpus_size": self.corpus_size,
            "metrics": self.systems,
        }


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    unit: Unit = "user",
    ranked_lists: Mapping[str, str | Path] | None = None,
) -> Evaluation:
    """Evaluates a run on the whole corpus and writes `evaluation/` of the run folder.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        split: The split to evaluate.
        unit: See `evaluation_set`.
        ranked_lists: Further baselines: name -> Parquet file; see `baselines.ranked_lists`.

    Raises:
        UserError: If a folder does not serve; see `load_run` and `evaluation_set`.
    """
    loaded = load_run(run, data)
    asked = evaluation_set(loaded.data, split, unit=unit)
    evaluation = evaluate_model(
        loaded.model, loaded.data, asked, split=split, unit=unit, ranked_lists=ranked_lists
    )
    folder = loaded.folder / EVALUATION
    folder.mkdir(exist_ok=True)
    name = f"{split}-full" if unit == "user" else f"{split}-full-{unit}"
    evaluation.per_query.to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / f"{name}.json", evaluation.as_dict())
    return evaluation


def evaluate_model(
    model: TwoTowerModel,
    data: PreparedData,
    asked: EvaluationSet,
    *,
    split: str,
    unit: Unit,
    ranked_lists: Mapping[str, str | Path] | None = None,
) -> Evaluation:
    """Ranks the corpus for every query with the model and the baselines; see `evaluate`."""
    corpus = data.corpus()
    query_ids = data.query_ids()[asked.query_rows]
    rankings = {
        "model": rank_model(model, corpus, asked),
        "popularity": baselines.popularity(asked, corpus.train_counts, LIST_LENGTH),
        "random": baselines.chance(asked, len(corpus), data.config.training.seed, LIST_LENGTH),
    }
    for name, path in (ranked_lists or {}).items():
        rankings[name] = baselines.ranked_lists(
            path, asked, query_ids, corpus.candidate_ids, LIST_LENGTH
        )
    is_warm = np.isin(asked.query_rows, data.known_positives()[0])
    slices = {"all": np.ones_like(is_warm), "warm": is_warm, "cold": ~is_warm}
    return Evaluation(
        split=split,
        unit=unit,
        num_queries={name: int(chosen.sum()) for name, chosen in slices.items()},
        num_positives=len(asked.positives.queries),
        num_known=asked.num_known,
        corpus_size=len(corpus),
        systems={
            name: {
                part: _summary(ranking, asked, chosen, corpus) for part, chosen in slices.items()
            }
            for name, ranking in rankings.items()
        },
        per_query=_per_query(query_ids, asked, rankings["model"], is_warm),
    )


def rank_model(model: TwoTowerModel, corpus: Corpus, asked: EvaluationSet) -> Ranking:
    """Where the model ranks the relevant candidates of an evaluation set."""
    return rank(
        embed(model.query_tower, asked.features),
        embed(model.candidate_tower, corpus.features),
        asked.positives,
        asked.excluded,
        k=LIST_LENGTH,
    )


def embed(tower: keras.Model, encoded: Arrays) -> Floats:
    """Embeddings of encoded features, `[num_entries, embedding_dim]`, batch by batch.

    Raises:
        UserError: If one is not finite; NaN would rank first.
    """
    size = len(next(iter(encoded.values())))
    batches = (
        {name: values[first : first + EMBED_BATCH] for name, values in encoded.items()}
        for first in range(0, size, EMBED_BATCH)
    )
    embeddings = np.concatenate([tower(batch, training=False) for batch in batches])
    if not np.isfinite(embeddings).all():
        raise UserError(
            f"training diverged: the {tower.name} gives values that are not finite; lower "
            "`training.learning_rate` or raise `loss.temperature`"
        )
    return embeddings


def _summary(
    ranking: Ranking, asked: EvaluationSet, chosen: npt.NDArray[np.bool_], corpus: Corpus
) -> Values:
    """The metrics over the chosen queries."""
    if not chosen.any():
        return dict.fromkeys((*METRICS, COVERAGE))
    of_query = {
        name: metrics.by_name(name, asked.positives.queries, ranking.ranks) for name in METRICS
    }
    means: Values = {name: float(values[chosen].mean()) for name, values in of_query.items()}
    means[COVERAGE] = metrics.coverage_at_k(ranking.top_rows[chosen], len(corpus))
    return means


def _per_query(
    query_ids: npt.NDArray[np.str_],
    asked: EvaluationSet,
    ranking: Ranking,
    is_warm: npt.NDArray[np.bool_],
) -> pd.DataFrame:
    starts = np.searchsorted(asked.positives.queries, np.arange(1, len(query_ids)))
    return pd.DataFrame(
        {
            "query_id": query_ids,
            "is_warm": is_warm,
            "candidate_rows": np.split(asked.positives.candidate_rows, starts),
            "ranks": np.split(ranking.ranks, starts),
        }
    )

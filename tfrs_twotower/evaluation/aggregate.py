"""Rankings of several systems -> the metrics of an evaluation."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tfrs_twotower.evaluation import metrics, rankers
from tfrs_twotower.evaluation.cautions import cautions_of
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.evaluation.result import CURVE_CUTS, MODEL, Evaluation
from tfrs_twotower.evaluation.slices import ALL, COLD, WARM, Slice, slices_of
from tfrs_twotower.evaluation.summaries import metric_names, summaries


def evaluate_model(inputs: EvaluationInputs) -> Evaluation:
    """The metrics of a model beside popularity and chance, as a training run reports them."""
    slices = slices_of(inputs.data, inputs.corpus, inputs.evaluation_set)
    return aggregate(
        inputs,
        {name: ranker(inputs) for name, ranker in rankers.BASIC.items()},
        {name: slices[name] for name in (ALL, WARM, COLD)},
    )


def aggregate(
    inputs: EvaluationInputs,
    rankings: Mapping[str, Ranking],
    slices: Mapping[str, Slice],
    seed: int | None = None,
    cut_offs: Sequence[int] = (),
) -> Evaluation:
    """The metrics of each system over each slice.

    Args:
        inputs: What was ranked.
        rankings: By system; that of the model is among them.
        slices: By name, `WARM` among them.
        seed: Of the bootstrap; None: no intervals.
        cut_offs: k of further metrics, beside those of `summaries.CUTS`.
    """
    evaluation_set, corpus = inputs.evaluation_set, inputs.corpus
    queries = evaluation_set.positives.queries
    found = {
        part: summaries(
            rankings,
            evaluation_set,
            chosen,
            corpus,
            inputs.candidate_embeddings,
            seed,
            metric_names(cut_offs),
        )
        for part, chosen in slices.items()
    }
    return Evaluation(
        split=evaluation_set.split,
        protocol=evaluation_set.protocol,
        unit=evaluation_set.unit,
        relevant_from=evaluation_set.relevant_from,
        num_queries={
            part: len(np.unique(queries[chosen.is_positive])) for part, chosen in slices.items()
        },
        num_positives=len(queries),
        num_known=evaluation_set.num_known,
        num_left_out=evaluation_set.num_left_out,
        corpus_size=len(corpus),
        excludes_known=evaluation_set.excludes_known,
        split_by=inputs.data.config.split.by,
        is_refit="validation" in inputs.data.training_splits,
        cautions=cautions_of(inputs.data.config, inputs.data.manifest, evaluation_set),
        systems={
            name: {part: means[name] for part, (means, _) in found.items()} for name in rankings
        },
        intervals={
            name: {part: bounds[name] for part, (_, bounds) in found.items() if bounds}
            for name in rankings
        },
        recall_curve={
            name: [
                float(metrics.recall_at_k(queries, ranking.ranks, k).mean())
                for k in CURVE_CUTS
                if k <= len(corpus)
            ]
            for name, ranking in rankings.items()
        },
        per_query=_per_query(inputs, rankings[MODEL], slices[WARM]),
        rankings=dict(rankings),
    )


def _per_query(inputs: EvaluationInputs, ranking: Ranking, warm: Slice) -> pd.DataFrame:
    queries, rows = inputs.evaluation_set.positives
    firsts = np.searchsorted(queries, np.arange(len(inputs.query_ids)))
    # Row -1, where a list is shorter, is the last: "".
    lists = np.append(inputs.corpus.candidate_ids, "").astype(object)[ranking.top_rows]
    lengths = (ranking.top_rows >= 0).sum(1)
    return pd.DataFrame(
        {
            "query_id": inputs.query_ids,
            "is_warm": warm.is_positive[firsts],
            "candidate_rows": np.split(rows, firsts[1:]),
            "ranks": np.split(ranking.ranks, firsts[1:]),
            "top_candidate_ids": [ids[:length] for ids, length in zip(lists, lengths, strict=True)],
        }
    )

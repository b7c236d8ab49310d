"""What serving a model costs: plausible figures, and sizes that are arithmetic."""

import math

import pytest

from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.evaluation.serving_cost import measure_serving_cost
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.models_folder import latest_version, models_of


@pytest.mark.slow
def test_costs_are_measured_and_sizes_are_vectors_times_width(tiny_run, models):
    run = load_run(*tiny_run)
    corpus = run.data.corpus()
    candidates = embed(run.model.candidate_tower, corpus.features)
    evaluation_set = load_evaluation_set(run.data, "validation")
    inputs = EvaluationInputs(run.model, run.data, corpus, evaluation_set, candidates)

    costs = measure_serving_cost(inputs, models)

    # 20 candidates and 20 queries of 8 numbers of 4 bytes.
    assert costs["embedding_bytes"] == {"candidates": 640, "queries": 640}
    assert set(costs["model_load_s"]) == set(models_of(models, latest_version(models)))
    measured = [
        *costs["query_embedding_ms"].values(),
        costs["candidates_scored_per_s"],
        *costs["model_load_s"].values(),
    ]
    assert all(math.isfinite(value) and value > 0 for value in measured)

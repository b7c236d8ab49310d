"""What serving a model costs: time to embed a query, candidates scored a second, memory, loading.

Measurements of this machine at this moment; the only part of an evaluation that differs from one
time to the next.
"""

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.ranking import Pairs, rank
from tfrs_twotower.keras import tf
from tfrs_twotower.publishing.models_folder import latest_version, models_of
from tfrs_twotower.schema.models_layout import RETRIEVAL
from tfrs_twotower.schema.scann_ops import register_scann_ops

SERVING_COST_FILE = "operations.json"  # As in run folders of earlier versions.
ROUNDS = 20
BATCH = 256
SCORED_QUERIES = 512


def measure_serving_cost(inputs: EvaluationInputs, models: Path | None = None) -> dict[str, Any]:
    """Measures a model, and how long its exported models take to load.

    Args:
        inputs: The model, its candidates and some queries.
        models: The models folder; None: nothing is loaded.

    Returns:
        `query_embedding_ms` (median of one query alone, and of one in a batch of 256),
        `candidates_scored_per_s` (exact ranking), `embedding_bytes` of candidates and queries kept
        in memory, and `model_load_s` by model.
    """
    # The tower as a graph, which is how it is served.
    tower = tf.function(lambda encoded: inputs.model.query_tower(encoded, training=False))
    candidates, evaluation_set = inputs.candidate_embeddings, inputs.evaluation_set

    def some(size: int) -> dict[str, tf.Tensor]:
        positions = np.arange(size) % len(evaluation_set.query_rows)
        return {
            name: tf.constant(values[positions]) for name, values in evaluation_set.features.items()
        }

    query_ms = {}
    for size in (1, BATCH):
        seconds = _median_s(functools.partial(_embed, tower, some(size)))
        query_ms[f"batch_{size}"] = 1e3 * seconds / size
    queries = tower(some(SCORED_QUERIES)).numpy()
    nothing = Pairs(*np.zeros([2, 0], np.int64))
    positives = Pairs(np.arange(SCORED_QUERIES), np.zeros(SCORED_QUERIES, np.int64))
    score = inputs.model.scorer.matrix
    ranking_s = _median_s(lambda: rank(queries, candidates, positives, nothing, k=0, score=score))
    return {
        "query_embedding_ms": query_ms,
        "candidates_scored_per_s": SCORED_QUERIES * len(candidates) / ranking_s,
        "embedding_bytes": {
            "candidates": candidates.nbytes,
            "queries": int(inputs.data.manifest["num_queries"]) * queries[0].nbytes,
        },
        "model_load_s": _load_times(models) if models else {},
    }


def _embed(tower: Callable[..., tf.Tensor], batch: dict[str, tf.Tensor]) -> None:
    """Waits for the result, which a GPU else computes later."""
    tower(batch).numpy()


def _median_s(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _load_times(models: Path) -> dict[str, float]:
    """Seconds to load the newest version of each model, once."""
    version = latest_version(models)
    seconds = {}
    for name in models_of(models, version):
        if name == RETRIEVAL:
            register_scann_ops()
        started = time.perf_counter()
        tf.saved_model.load(str(models / name / str(version)))
        seconds[name] = time.perf_counter() - started
    return seconds

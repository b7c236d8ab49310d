"""Search for the best candidates of a query embedding: exact, with ScaNN, or with stock ops.

It takes embeddings from anywhere, as NumPy arrays:

    tuning_queries, other_queries = split_queries(queries, target_recall=0.95)
    index, tuning = tune(embeddings, tuning_queries, target_recall=0.95, at=100)
    recall = promise_recall(index, tuning, other_queries)
    rows, scores = index.search(tf.constant(queries[:1]), tf.constant(10))

`tune_ivf` in place of `tune` gives an index of stock TensorFlow ops, which every server can load.
`publishing.export_retriever` writes an index and a query tower as a model for TensorFlow Serving.
"""

# First, since it picks Keras 2 before TensorFlow is imported.
import tfrs_twotower.keras  # noqa: F401
from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.exact import ExactIndex
from tfrs_twotower.index.ivf import IvfIndex
from tfrs_twotower.index.parameters import IndexParameters, IvfParameters
from tfrs_twotower.index.promised_recall import promise_recall, split_queries
from tfrs_twotower.index.recall import Recall, measure_recall
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.tuning import Trial, Tuning, tune, tune_ivf

__all__ = [
    "CandidateIndex",
    "ExactIndex",
    "IndexParameters",
    "IvfIndex",
    "IvfParameters",
    "Recall",
    "ScannIndex",
    "Trial",
    "Tuning",
    "measure_recall",
    "promise_recall",
    "split_queries",
    "tune",
    "tune_ivf",
]

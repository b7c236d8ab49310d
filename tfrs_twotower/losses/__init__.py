"""The training losses: pure functions of embeddings and scores, and the task that joins them.

`RetrievalTask` is a layer for any `tfrs.Model`. The functions are its mathematics.

Positive: the candidate of the query's own example. Negative: a candidate that the loss pushes
away: in-batch (the positive of another example), uniform (drawn from the whole corpus for the
batch), or own (of one query: explicit, implicit or mined). Accidental hit: a negative that is the
example's own positive. Known positive: another positive of the query in train. The task's `mask`
removes them from the negatives.
"""

from tfrs_twotower.losses.hardest import hardest_in_batch
from tfrs_twotower.losses.pairs import (
    binary_cross_entropy,
    bpr,
    dot_products,
    margin_ranking,
    softmax_over_scores,
)
from tfrs_twotower.losses.retrieval_task import RetrievalTask
from tfrs_twotower.losses.sampling import mixed_log_q
from tfrs_twotower.losses.softmax import (
    in_batch_softmax,
    log_expected_count,
    sampled_softmax,
)

__all__ = [
    "RetrievalTask",
    "binary_cross_entropy",
    "bpr",
    "dot_products",
    "hardest_in_batch",
    "in_batch_softmax",
    "log_expected_count",
    "margin_ranking",
    "mixed_log_q",
    "sampled_softmax",
    "softmax_over_scores",
]

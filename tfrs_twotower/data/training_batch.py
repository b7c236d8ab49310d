"""The contents of a training batch.

A batch is a nested mapping. Values of the examples are at the top, the inputs of each tower in a
mapping of their own, and negatives in smaller batches with the same keys:

    query              encoded features of the queries, by name
    candidate          encoded features of the examples' candidates, by name
    candidate_row      [batch] int32 row in the corpus
    weight             [batch] float32 > 0
    label              [batch] int32, 1 or 0: for `loss.kind: bce` alone, else all are positives
    candidate_log_q    [batch] float32: with `loss.logq_correction`
    known_positives    [batch, (num_known)] int32 candidate rows: with `loss.mask: known_positives`
    uniform_negatives  with `loss.uniform_negatives`, of the whole batch
        candidate      [num_uniform, ...] features
        candidate_row  [num_uniform]
        candidate_log_q
    own_negatives      with explicit, implicit or mined negatives, of one query each
        candidate      [batch, num_own, ...] features
        candidate_row  [batch, num_own]; -1 where there is none

So `model.query_tower(batch["query"])` and `model.candidate_tower(batch["candidate"])` embed the
examples of any batch. A feature is `[batch, ...]` as in `Encoder.encoded_specs`; only an ordered
history is a `SharedHistories` of all examples.

`tf.data`, Keras' `fit` and `tf.distribute` take nested mappings as they are.
"""

from typing import NotRequired, TypedDict

from tfrs_twotower.features.history_encoders import SharedHistories
from tfrs_twotower.keras import tf


class Negatives(TypedDict):
    """Candidates beside those of the examples."""

    candidate: dict[str, tf.Tensor]
    candidate_row: tf.Tensor
    candidate_log_q: NotRequired[tf.Tensor]


class TrainingBatch(TypedDict):
    """See the module."""

    query: dict[str, tf.Tensor | SharedHistories]
    candidate: dict[str, tf.Tensor]
    candidate_row: tf.Tensor
    weight: tf.Tensor
    label: NotRequired[tf.Tensor]
    candidate_log_q: NotRequired[tf.Tensor]
    known_positives: NotRequired[tf.RaggedTensor]
    uniform_negatives: NotRequired[Negatives]
    own_negatives: NotRequired[Negatives]

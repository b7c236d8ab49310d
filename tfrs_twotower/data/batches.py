"""Training examples -> batches with their negatives."""

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.history_windows import Pasts, PastsTable
from tfrs_twotower.data.keys import CANDIDATE_LOG_Q, KNOWN_POSITIVES, OWN, UNIFORM
from tfrs_twotower.data.negatives import NegativeSampler, PairTable
from tfrs_twotower.data.prepared import Arrays, Corpus, ordered_history
from tfrs_twotower.features.dense import PLACES
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import Config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import Id


def training_examples(examples: Arrays, config: Config) -> Arrays:
    """The examples that are stepped through: positives, and labelled 0 ones for `bce`."""
    if config.loss.kind == "bce":
        return examples
    is_positive = examples[layout.LABEL] == 1
    return {name: values[is_positive] for name, values in examples.items()}


def training_batches(
    examples: Arrays,
    corpus: Corpus,
    config: Config,
    epochs: range,
    mined: npt.NDArray[np.int64] | None = None,
) -> tf.data.Dataset:
    """Batches of examples and their negatives, each epoch in an order of its own.

    Everything random is a function of `training.seed` and the number of the epoch or step, so a
    training that is resumed at an epoch sees what an uninterrupted one sees.

    Args:
        examples: Of the train split.
        corpus: Where the candidate features are gathered by row, but those that the examples hold.
        config: Batch size, seed, id dropout, loss.
        epochs: Which epochs to give, numbered from 0.
        mined: `[num_queries, num_mined]` what `mining.mine` found, where the loss wants some.

    Returns:
        A dataset of `steps_per_epoch` batches an epoch, the smaller batch at the end of an epoch
        left out; see `TwoTowerModel` for the keys of a batch. With an ordered history a batch is
        of whole windows of pasts (`tfrs_twotower.data.history_windows`), at least one, and about
        `batch_size` examples.

    Raises:
        UserError: If the loss needs negatives that neither data nor config give.
    """
    seed = config.training.seed
    sampler = _negative_sampler(examples, corpus, config, mined)
    examples = training_examples(examples, config)
    num_examples = len(examples[layout.LABEL])
    size = min(config.training.batch_size, num_examples)
    steps = steps_per_epoch(num_examples, size)
    pasts = _pasts(examples, corpus, config)
    num_units, units = num_examples, size
    if pasts is not None:
        num_units = len(pasts.starts) - 1
        units = max(num_units // steps, 1)
    dropped = {layout.TIMESTAMP_S} | ({layout.LABEL} if config.loss.kind != "bce" else set())
    dropped |= set(ordered_history(config))
    by_example = {
        name: tf.constant(values) for name, values in examples.items() if name not in dropped
    }
    by_candidate = {name: tf.constant(values) for name, values in corpus.features.items()}
    if config.loss.logq_correction and config.loss.kind == "softmax":
        by_candidate[CANDIDATE_LOG_Q] = sampler.log_q(corpus.log_q, size)
    ids_with_dropout = {
        name: feature
        for name, feature in {**config.query_features, **config.candidate_features}.items()
        if isinstance(feature, Id) and feature.dropout
    }

    def order_of(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(
            tf.range(num_units), seed=tf.stack([tf.constant(seed, tf.int64), epoch])
        )
        # Windows longer than a batch come up more than once in an epoch.
        chosen = tf.gather(order, tf.range(steps * units) % num_units)
        return tf.data.Dataset.from_tensor_slices(tf.reshape(chosen, [steps, units]))

    def batch_of(step: tf.Tensor, positions: tf.Tensor) -> dict[str, tf.Tensor]:
        of_pasts = {}
        if pasts is not None:
            [name] = ordered_history(config)
            positions, of_pasts[name], of_pasts[PLACES + name] = pasts.of_windows(positions)
        batch = {name: tf.gather(values, positions) for name, values in by_example.items()}
        batch.update(of_pasts)
        query_rows = batch.pop(layout.QUERY_ROW)
        negatives = {UNIFORM: sampler.uniform(step), OWN: sampler.own(query_rows, step)}
        for prefix, rows in {"": batch[layout.CANDIDATE_ROW], **negatives}.items():
            if rows is not None:
                batch[prefix + layout.CANDIDATE_ROW] = rows
                for name, values in by_candidate.items():
                    # What the example says of its own candidate is of its moment.
                    if prefix + name not in batch:
                        batch[prefix + name] = tf.gather(values, tf.maximum(rows, 0))
        known_positives = sampler.known_positives(query_rows)
        if known_positives is not None:
            batch[KNOWN_POSITIVES] = known_positives
        for order, (name, feature) in enumerate(ids_with_dropout.items()):
            for key in {name, UNIFORM + name, OWN + name} & batch.keys():
                stream = seed + order + (len(ids_with_dropout) if key != name else 0)
                batch[key] = _drop_ids(batch[key], feature, tf.stack([step, stream]))
        return batch

    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(order_of)
        .enumerate(epochs.start * steps)
        .map(batch_of, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def _pasts(examples: Arrays, corpus: Corpus, config: Config) -> PastsTable | None:
    if config.history is None or not ordered_history(config):
        return None
    assert config.candidate_id is not None
    id_rows, length = corpus.features[config.candidate_id.name], config.history.feature.length
    return PastsTable(*map(tf.constant, Pasts.of(examples, id_rows, length)))


def known_pairs(examples: Arrays, corpus_size: int, label: int) -> PairTable:
    """The distinct (query, candidate) pairs of the examples of a label."""
    chosen = examples[layout.LABEL] == label
    return PairTable.of(
        examples[layout.QUERY_ROW][chosen], examples[layout.CANDIDATE_ROW][chosen], corpus_size
    )


def _negative_sampler(
    examples: Arrays, corpus: Corpus, config: Config, mined: npt.NDArray[np.int64] | None
) -> NegativeSampler:
    return NegativeSampler(
        config.loss,
        known_pairs(examples, len(corpus), 1),
        known_pairs(examples, len(corpus), 0),
        mined,
        config.training.seed,
    )


def _drop_ids(rows: tf.Tensor, feature: Id, seed: tf.Tensor) -> tf.Tensor:
    """Turns a share of the ids into an unknown one, whose row so learns to stand in."""
    draws = tf.random.stateless_uniform(tf.concat([[2], tf.shape(rows)], 0), seed)
    bucket = tf.cast(draws[1] * feature.oov_buckets, rows.dtype)
    return tf.where(draws[0] < feature.dropout, FIRST_OOV_ROW + bucket, rows)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; one smaller batch where there are fewer examples."""
    return max(num_examples // batch_size, 1)

"""Training examples -> batches with their negatives."""

import functools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.history_windows import HistoryWindows, WindowsTable
from tfrs_twotower.data.negatives import NegativeSampler, PairTable
from tfrs_twotower.data.prepared import Arrays, Corpus, ordered_history
from tfrs_twotower.data.training_batch import Negatives, TrainingBatch
from tfrs_twotower.features.encoding import FIRST_OOV_ROW
from tfrs_twotower.features.history_encoders import SharedHistories
from tfrs_twotower.features.seeds import seed_of
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
        mined: `[num_queries, num_mined]` what `mining.mine` found, if the loss has mined negatives.

    Returns:
        A dataset of `steps_per_epoch` batches an epoch, the smaller batch at the end of an epoch
        left out; see `tfrs_twotower.data.training_batch` for what a batch holds. With an ordered
        history a batch is of whole windows (`tfrs_twotower.data.history_windows`), at
        least one, and about `batch_size` examples.

    Raises:
        UserError: If the loss needs negatives that neither data nor config give.
    """
    sampler = _negative_sampler(examples, corpus, config, mined)
    examples = training_examples(examples, config)
    num_examples = len(examples[layout.LABEL])
    size = min(config.training.batch_size_for(num_examples), num_examples)
    steps = steps_per_epoch(num_examples, size)
    units = _units(examples, corpus, config, size, steps)
    order_of = functools.partial(_steps_of, units=units, steps=steps, seed=config.training.seed)
    batches = _Batches(examples, corpus, config, units, sampler, size)
    return (
        tf.data.Dataset.range(epochs.start, epochs.stop)
        .flat_map(order_of)
        .enumerate(epochs.start * steps)
        .map(batches.of_step, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def known_pairs(examples: Arrays, corpus_size: int, label: int) -> PairTable:
    """The distinct (query, candidate) pairs of the examples of a label."""
    chosen = examples[layout.LABEL] == label
    return PairTable.of(
        examples[layout.QUERY_ROW][chosen], examples[layout.CANDIDATE_ROW][chosen], corpus_size
    )


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in an epoch; one smaller batch where there are fewer examples."""
    return max(num_examples // batch_size, 1)


# --- what an epoch shuffles -----------------------------------------------------------------


class _SingleExamples(NamedTuple):
    """What an epoch is an order of, where it is single examples."""

    num_units: int
    per_step: int

    def examples_of(self, units: tf.Tensor) -> tuple[tf.Tensor, dict[str, SharedHistories]]:
        """Positions of the examples of some units, and the histories that these share by name."""
        return units, {}


class _Windows(NamedTuple):
    """What an epoch is an order of, where it is windows of positives with their examples."""

    num_units: int
    per_step: int
    name: str
    table: WindowsTable

    def examples_of(self, units: tf.Tensor) -> tuple[tf.Tensor, dict[str, SharedHistories]]:
        """See `_SingleExamples`."""
        positions, shared = self.table.of_windows(units)
        return positions, {self.name: shared}


_Units = _SingleExamples | _Windows


def _units(examples: Arrays, corpus: Corpus, config: Config, size: int, steps: int) -> _Units:
    history = ordered_history(config)
    if history is None:
        return _SingleExamples(len(examples[layout.LABEL]), size)
    windows = HistoryWindows.of(examples, corpus.history_rows, history.feature.length)
    table = WindowsTable.of(windows)
    return _Windows(len(windows), max(len(windows) // steps, 1), history.name, table)


def _steps_of(epoch: tf.Tensor, *, units: _Units, steps: int, seed: int) -> tf.data.Dataset:
    """The units of each step of an epoch."""
    order = tf.random.experimental.stateless_shuffle(
        tf.range(units.num_units), seed=tf.stack([epoch, seed_of(seed, "order")])
    )
    # Windows longer than a batch come up more than once in an epoch.
    chosen = tf.gather(order, tf.range(steps * units.per_step) % units.num_units)
    return tf.data.Dataset.from_tensor_slices(tf.reshape(chosen, [steps, units.per_step]))


# --- what a batch is made of ----------------------------------------------------------------


class _Batches:
    """Makes the batch of a step."""

    def __init__(
        self,
        examples: Arrays,
        corpus: Corpus,
        config: Config,
        units: _Units,
        sampler: NegativeSampler,
        size: int,
    ) -> None:
        """Puts examples and candidates into tensors.

        Args:
            examples: Those that are stepped through.
            corpus: The candidates.
            config: Features and loss.
            units: What an epoch is an order of.
            sampler: Of the negatives.
            size: Of a batch.
        """
        self._units = units
        self._sampler = sampler
        self._query_rows = tf.constant(examples[layout.QUERY_ROW])
        keys = [layout.CANDIDATE_ROW, layout.WEIGHT]
        keys += [layout.LABEL] if config.loss.kind == "bce" else []
        history = ordered_history(config)
        sides = {
            "query": config.query_features.keys() - {history and history.name},
            "candidate": config.candidate_aggregates.keys(),
        }
        self._by_example: dict[str, Any] = {key: tf.constant(examples[key]) for key in keys}
        for side, names in sides.items():
            self._by_example[side] = {name: tf.constant(examples[name]) for name in names}
        self._features = {name: tf.constant(values) for name, values in corpus.features.items()}
        self._log_q = None
        if config.loss.logq_correction and config.loss.kind == "softmax":
            self._log_q = sampler.log_q(corpus.log_q, size)
        self._id_dropout = _IdDropout(config)

    def of_step(self, step: tf.Tensor, units: tf.Tensor) -> TrainingBatch:
        """The batch of some units and its negatives."""
        positions, histories = self._units.examples_of(units)
        query_rows = tf.gather(self._query_rows, positions)
        batch: TrainingBatch = tf.nest.map_structure(
            lambda values: tf.gather(values, positions), self._by_example
        )
        batch["query"].update(histories)
        candidates = self._candidates(batch["candidate_row"])
        # An example's own values of its candidate are of its moment and take precedence.
        batch["candidate"] = {**candidates["candidate"], **batch["candidate"]}
        if "candidate_log_q" in candidates:
            batch["candidate_log_q"] = candidates["candidate_log_q"]
        uniform_rows, own_rows = self._sampler.uniform(step), self._sampler.own(query_rows, step)
        if uniform_rows is not None:
            batch["uniform_negatives"] = self._candidates(uniform_rows)
        if own_rows is not None:
            batch["own_negatives"] = self._candidates(own_rows, with_log_q=False)
        known_positives = self._sampler.known_positives(query_rows)
        if known_positives is not None:
            batch["known_positives"] = known_positives
        return self._id_dropout.applied(batch, step)

    def _candidates(self, rows: tf.Tensor, *, with_log_q: bool = True) -> Negatives:
        """Candidates by row; for -1, no candidate, the features of candidate 0."""
        places = tf.maximum(rows, 0)
        features = {name: tf.gather(values, places) for name, values in self._features.items()}
        described: Negatives = {"candidate": features, "candidate_row": rows}
        if with_log_q and self._log_q is not None:
            described["candidate_log_q"] = tf.gather(self._log_q, places)
        return described


class _IdDropout:
    """Replaces a share of the ids of both sides by out-of-vocabulary rows."""

    def __init__(self, config: Config) -> None:
        """Reads off which ids are dropped, and how often."""
        self._seed = config.training.seed
        self._dropped = {
            name: feature
            for name, feature in {**config.query_features, **config.candidate_features}.items()
            if isinstance(feature, Id) and feature.dropout
        }

    def applied(self, batch: TrainingBatch, step: tf.Tensor) -> TrainingBatch:
        """The batch with ids dropped, of negatives as often as of positives.

        Otherwise a known id would give a negative away.
        """
        groups = {"query": batch["query"], "candidate": batch["candidate"]}
        for group in ("uniform_negatives", "own_negatives"):
            if group in batch:
                groups[group] = batch[group]["candidate"]
        for group, features in groups.items():
            for name in features.keys() & self._dropped.keys():
                seed = tf.stack([step, seed_of(self._seed, f"id_dropout/{group}")])
                features[name] = _drop_ids(features[name], self._dropped[name], seed)
        return batch


def _drop_ids(rows: tf.Tensor, feature: Id, seed: tf.Tensor) -> tf.Tensor:
    """Replaces a share of the ids by an out-of-vocabulary row, which so is trained."""
    draws = tf.random.stateless_uniform(tf.concat([[2], tf.shape(rows)], 0), seed)
    bucket = tf.cast(draws[1] * feature.oov_buckets, rows.dtype)
    return tf.where(draws[0] < feature.dropout, FIRST_OOV_ROW + bucket, rows)


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

"""Training on several devices or machines: the strategy, and each replica's share of a batch."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tfrs_twotower.keras import tf
from tfrs_twotower.schema import Parameter, UsageError, UserError
from tfrs_twotower.schema.training import Training

TF_CONFIG = "TF_CONFIG"
EXAMPLE = (
    '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
)

# What TensorFlow raises in a worker whose peers are gone: a connection that ended, or any status
# that a collective operation passes on. An `InternalError` of another origin is a bug.
CONNECTION_ENDED = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)
PASSED_ON = "Collective ops is aborted by"


def make_strategy(training: Training) -> tf.distribute.Strategy:
    """The strategy that the config names.

    Several workers: must be called before TensorFlow does anything else, in every worker, and
    waits for all of them.

    Raises:
        UsageError: If the environment does not name the workers.
        UserError: If they do not connect.
    """
    if training.distribution == "one_device":
        return tf.distribute.get_strategy()
    if training.distribution == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    _check_tf_config(os.environ.get(TF_CONFIG, ""))
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UsageError(
            f"`training.distribution: multi_worker`: {error}; train in a fresh process"
        ) from error
    except tf.errors.OpError as error:
        raise UserError(
            f"the workers of {TF_CONFIG} did not connect: {_first_line(error)}"
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder."""
    resolver = strategy.cluster_resolver
    if not _has_workers(strategy):
        return True
    if "chief" in resolver.cluster_spec().jobs:
        return bool(resolver.task_type == "chief")
    return bool(resolver.task_id == 0)


def distributed(
    strategy: tf.distribute.Strategy, batches: Callable[[], tf.data.Dataset]
) -> tf.data.Dataset:
    """What `fit` reads: whole batches on one device, else one share after another for the replicas.

    Every worker makes the whole batches, which costs little, and trains on its own share.
    """
    if strategy.num_replicas_in_sync == 1:
        return batches()

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        num_replicas = context.num_replicas_in_sync
        own = num_replicas // context.num_input_pipelines
        first = own * context.input_pipeline_id
        return in_shares(batches(), range(first, first + own), num_replicas)

    return strategy.distribute_datasets_from_function(of_worker)


def in_shares(batches: tf.data.Dataset, replicas: range, num_replicas: int) -> tf.data.Dataset:
    """Cuts each batch into shares of consecutive rows, one for each of some replicas.

    Args:
        batches: Nested mappings of tensors; each tensor is cut along its own first dimension.
        replicas: Whose shares are wanted.
        num_replicas: Into how many shares a batch is cut.
    """

    def cut(values: tf.Tensor | tf.RaggedTensor, replica: tf.Tensor) -> tf.Tensor:
        is_ragged = isinstance(values, tf.RaggedTensor)
        size = values.nrows() if is_ragged else tf.shape(values, tf.int64)[0]
        return values[size * replica // num_replicas : size * (replica + 1) // num_replicas]

    def shares_of(batch: Any) -> tf.data.Dataset:
        return tf.data.Dataset.range(replicas.start, replicas.stop).map(
            lambda replica: tf.nest.map_structure(lambda values: cut(values, replica), batch)
        )

    return batches.flat_map(shares_of).prefetch(tf.data.AUTOTUNE)


def mean_across_workers(strategy: tf.distribute.Strategy, value: float) -> float:
    """The mean of the workers' values, the same in all; returns once all workers have called it."""
    if not _has_workers(strategy):
        return value

    def mean(mine: tf.Tensor) -> tf.Tensor:
        # The identity is a tensor of this replica's device, which a collective needs.
        return tf.distribute.get_replica_context().all_reduce("MEAN", tf.identity(mine))

    everywhere = tf.function(lambda mine: strategy.run(mean, args=(mine,)))(tf.constant(value))
    return float(strategy.experimental_local_results(everywhere)[0])


@contextmanager
def report_lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns the error that TensorFlow raises when another worker is gone into a user's error.

    Raises:
        UserError: If another worker is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not _has_workers(strategy) or not _is_of_lost_worker(error):
            raise
        raise UserError(
            f"a worker was lost ({_first_line(error)}): see its last message, then start all "
            "workers again with ",
            Parameter("resume", True),
        ) from error


def _is_of_lost_worker(error: tf.errors.OpError) -> bool:
    return isinstance(error, CONNECTION_ENDED) or PASSED_ON in str(error.message)


def _has_workers(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _check_tf_config(text: str) -> None:
    try:
        config = json.loads(text)
        workers, task = config["cluster"], config["task"]
        workers[task["type"]][int(task["index"])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"`training.distribution: multi_worker` needs {TF_CONFIG} in the environment of every "
            f"worker, got {text!r}\nfor example {EXAMPLE}"
        ) from error


def _first_line(error: tf.errors.OpError) -> str:
    """The first line of TensorFlow's message, without the nodes of its graph."""
    text = re.sub(r"\{\{.*?\}\}|Graph execution error:", "", str(error.message))
    lines = [line.strip(" ():") for line in text.splitlines() if line.strip(" ():")]
    return lines[0][:200] if lines else type(error).__name__

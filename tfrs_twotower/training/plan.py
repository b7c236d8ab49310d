"""The dry run of a training: its parameters, steps and memory."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfrs_twotower.data.batches import steps_per_epoch
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.features.encoding import encoded_spec
from tfrs_twotower.losses.softmax import BLOCK_ROWS
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.training.optimizers import make_optimizer


@dataclass(frozen=True)
class Plan:
    """Parameters, steps and memory of a training run.

    `weights`: name and shape of each trained variable; `memory_bytes`: by purpose, on one device,
    without the interpreter and TensorFlow itself, which take about 0.6 GB.
    """

    weights: dict[str, list[int]]
    num_parameters: int
    num_examples: int
    batch_size: int
    steps_per_epoch: int
    max_epochs: int
    memory_bytes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def plan(config: Config, data: str | Path) -> Plan:
    """Builds the model and counts; reads no examples.

    Args:
        config: Must describe the data.
        data: The prepared folder.

    Raises:
        UserError: If the data is unusable.
    """
    prepared = PreparedData(data, config)
    num_examples, batch_size = prepared.num_examples, prepared.batch_size
    model = build_model(prepared)
    counts = prepared.manifest["counts"]["examples"]
    of_train = counts["train"]
    num_steps = steps_per_epoch(num_examples, batch_size)
    optimizer = make_optimizer(config.training, config.training.epochs * num_steps)
    optimizer.build(model.trainable_variables)
    # Both rows, label and weight take 4 bytes each, the timestamp 8.
    key_bytes = 4 + 4 + 8 + 4 + 4
    examples_bytes = sum(of_train.values()) * (
        key_bytes + _bytes_an_entry(prepared.features_to_train)
    )
    examples_bytes += counts["validation"]["positives"] * (
        key_bytes + _bytes_an_entry(config.query_features)
    )
    candidate_bytes = _bytes_an_entry(config.candidate_features)
    weights = {variable.name: variable.shape for variable in model.trainable_variables}
    # By their values: the candidates of a history have no fixed number of rows.
    weights_bytes = sum(_size(one.value().shape) * one.dtype.size for one in model.variables)
    corpus_size = prepared.manifest["corpus_size"]
    return Plan(
        weights={name: shape.as_list() for name, shape in weights.items()},
        num_parameters=sum(map(_size, weights.values())),
        num_examples=num_examples,
        batch_size=batch_size,
        steps_per_epoch=num_steps,
        max_epochs=config.training.epochs,
        memory_bytes={
            "weights": weights_bytes,
            "optimizer": sum(_size(v.shape) * v.dtype.size for v in optimizer.variables),
            "examples": examples_bytes,
            "candidates": corpus_size * (candidate_bytes + 4 * config.towers.embedding_dim),
            "step": _step_bytes(config, batch_size),
        },
    )


def _step_bytes(config: Config, batch_size: int) -> int:
    """The largest tensors of a step: a block of scores and embeddings, each with its gradient.

    The activations of the towers' layers are not counted.
    """
    num_candidates = batch_size + config.loss.uniform_negatives
    scores = 2 * 4 * min(BLOCK_ROWS, batch_size) * num_candidates
    embeddings = 2 * 4 * (batch_size + num_candidates) * config.towers.embedding_dim
    return scores + embeddings


def _bytes_an_entry(features: dict[str, Feature]) -> int:
    """Bytes of the encoded features of one example; float32 and int32 both take four."""
    specs = [encoded_spec(feature, name) for name, feature in features.items()]
    return sum(4 * _size(spec.shape[1:]) for spec in specs)


def _size(shape: Any) -> int:
    return int(np.prod(shape.as_list(), dtype=np.int64))

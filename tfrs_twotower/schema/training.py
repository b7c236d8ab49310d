"""The section `training`: optimizer, batches, epochs, and how the best epoch is chosen."""

import math
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tfrs_twotower.schema.strict import Strict

# Where `batch_size` is left out: as near as a power of two comes to this many steps an epoch,
# within the limits. Measured in docs/ablations.md.
STEPS_PER_EPOCH = 1000
SMALLEST_BATCH, LARGEST_BATCH = 256, 4096


class Training(Strict):
    """How Keras trains. The epoch with the best `metric` on the validation split is kept."""

    epochs: PositiveInt = 20
    batch_size: int | None = Field(
        None,
        ge=2,
        description="Examples of a step. Default: the power of two that makes about "
        f"{STEPS_PER_EPOCH:,} steps an epoch, from {SMALLEST_BATCH} to {LARGEST_BATCH}.",
    )
    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 0.003
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="The learning rate over time. cosine: it falls to 0 over `epochs`, so set "
        "`epochs` to the number that you want to train; that of a refit over the refit's epochs.",
    )
    seed: int = Field(42, ge=0, le=1_000_000_000)
    metric: str = Field("recall_at_10", pattern=r"^(recall|hit_rate|ndcg)_at_[1-9][0-9]*$|^mrr$")
    patience: PositiveInt = Field(
        3, description="Stop after so many epochs without a better metric."
    )
    graph_smoothing: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Before each epoch but the first, move the embedding of each id by this share "
        "towards those of the ids with the same positives in train (Laplacian smoothing); 0.4 for "
        "sparse data. The share falls with the learning rate of the `schedule`.",
    )
    distribution: Literal["one_device", "mirrored", "multi_worker"] = Field(
        "one_device",
        description="mirrored: all GPUs of the machine. multi_worker: the machines that the "
        "environment variable TF_CONFIG names. `batch_size` is that of all devices together.",
    )
    refit: bool = Field(
        False,
        description="Then train again from scratch, on train and validation, for as many epochs as "
        "were best. Validation figures remain those of the first training.",
    )

    def batch_size_for(self, num_examples: int) -> int:
        """`batch_size`; where it is left out, what follows from the examples of an epoch.

        Args:
            num_examples: Of the train split.
        """
        if self.batch_size is not None:
            return self.batch_size
        nearest = 2 ** round(math.log2(max(num_examples, 1) / STEPS_PER_EPOCH))
        return min(max(nearest, SMALLEST_BATCH), LARGEST_BATCH)

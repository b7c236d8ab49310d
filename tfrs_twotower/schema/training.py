"""The section `training`: optimizer, batches, epochs, and how the best epoch is chosen."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tfrs_twotower.schema.strict import Strict


class Training(Strict):
    """How Keras trains. The epoch with the best `metric` on the validation split is kept."""

    epochs: PositiveInt = 20
    batch_size: int = Field(1024, ge=2)
    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 0.003
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="The learning rate over time. cosine: it falls to 0 over `epochs`, so set "
        "`epochs` to the number that you want to train.",
    )
    seed: int = Field(42, ge=0, le=1_000_000_000)
    metric: str = Field("recall_at_10", pattern=r"^(recall|hit_rate|ndcg)_at_[1-9][0-9]*$|^mrr$")
    patience: PositiveInt = Field(
        3, description="Stop after so many epochs without a better metric."
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

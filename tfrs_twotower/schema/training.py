"""The section `training`: optimizer, batches, epochs, and how the best epoch is chosen."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tfrs_twotower.schema.strict import Strict


class Training(Strict):
    """How Keras trains; the best epoch by `metric` on the validation split is kept."""

    epochs: PositiveInt = 20
    batch_size: int = Field(1024, ge=2)
    optimizer: Literal["adam", "adagrad"] = "adam"
    learning_rate: PositiveFloat = 0.003
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="Of the learning rate; cosine: falls to 0 over `epochs`, so set these to as "
        "many as you mean to train.",
    )
    seed: int = Field(42, ge=0, le=1_000_000_000)
    metric: str = Field("recall_at_10", pattern=r"^(recall|hit_rate|ndcg)_at_[1-9][0-9]*$|^mrr$")
    patience: PositiveInt = Field(3, description="Epochs without a better metric before stopping.")
    distribution: Literal["one_device", "mirrored", "multi_worker"] = Field(
        "one_device",
        description="mirrored: all GPUs of the machine; multi_worker: the machines that the "
        "environment variable TF_CONFIG names. `batch_size` is that of all together.",
    )
    refit: bool = Field(
        False,
        description="Train once more from the start, on train and validation, for as many epochs "
        "as were best; validation figures are those of the first training.",
    )

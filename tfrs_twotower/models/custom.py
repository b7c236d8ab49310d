"""A model of the user's own in place of the configured towers.

`towers.build: module:function` names a function of the `PreparedData` that returns the model, a
`tfrs.Model` with a `query_tower` and a `candidate_tower`. Both are Keras models that take encoded
features by name (`Encoder.encoded_specs`) and return `[batch, d]` embeddings. `compute_loss` gets
the batches that `tfrs_twotower.data.training_batch` describes. Evaluation, export and serving need
no more than the towers; a score is the dot product of their embeddings, unless the model has a
`scorer` (`tfrs_twotower.models.scorers.ScoringLayer`).

To change one tower only, return a `TwoTowerModel` of yours and one of ours.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tfrs_twotower.keras import keras
from tfrs_twotower.models.scorers import DOT_PRODUCT
from tfrs_twotower.models.two_tower import one_entry
from tfrs_twotower.schema import UsageError

if TYPE_CHECKING:
    from tfrs_twotower.data.prepared import PreparedData


def build_own_model(name: str, data: "PreparedData") -> Any:
    """Calls the function that a config names, and checks what it returns.

    Args:
        name: `module:function`.
        data: What the function is called with.

    Returns:
        The model; its towers have their variables, and it has a `scorer`.

    Raises:
        UsageError: If there is no such function, or the model has not the two towers.
    """
    where = f"`towers.build: {name}`"
    module, _, function = name.partition(":")
    try:
        build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{where}: {error}; Python must find the module, for example by PYTHONPATH=."
        ) from error
    model = build(data)
    if not isinstance(model, keras.Model):
        raise UsageError(f"{where} returned a {type(model).__name__}, expected a tfrs.Model")
    config = data.config
    widths = [
        _width(model, tower, features, where)
        for tower, features in (
            ("query_tower", config.query_features),
            ("candidate_tower", config.candidate_features),
        )
    ]
    if widths[0] != widths[1]:
        raise UsageError(
            f"{where}: the query tower gives {widths[0]} dimensions, the candidate tower "
            f"{widths[1]}; a score needs the same"
        )
    if not hasattr(model, "scorer"):
        model.scorer = DOT_PRODUCT
    return model


def _width(model: Any, name: str, features: Any, where: str) -> int:
    tower = getattr(model, name, None)
    if not isinstance(tower, keras.layers.Layer):
        raise UsageError(f"{where}: the model has no Keras model as its `{name}`")
    embedding = tower(one_entry(features))
    if embedding.shape.rank != 2 or embedding.shape[0] != 1:
        raise UsageError(
            f"{where}: `{name}` gives shape {embedding.shape} for one entry, expected [1, d]"
        )
    return int(embedding.shape[1])

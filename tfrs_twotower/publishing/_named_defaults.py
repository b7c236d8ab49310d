"""Optional inputs of a signature that survive saving; all that relies on how TensorFlow keeps them.

`SignatureDef.defaults` is filled from one form only: the positional defaults of a `tf.function`
with an `input_signature`. A concrete function loses them without a word. The names of the inputs
are known only when a model is exported, hence a Python signature made by hand: `tf.function` reads
`__signature__`, as `inspect.signature` documents, but promises it nowhere.
"""

import inspect
from collections.abc import Callable, Mapping

import tensorflow as tf

Tensors = Mapping[str, tf.Tensor]


def with_named_defaults(
    function: Callable[[Tensors], dict[str, tf.Tensor]],
    inputs: Mapping[str, tf.TensorSpec],
    defaults: Tensors,
) -> tf.types.experimental.PolymorphicFunction:
    """A function for `tf.saved_model.save` whose inputs have names, and some of them defaults.

    Args:
        function: Inputs by name -> outputs by name.
        inputs: All of them, by name.
        defaults: Of the optional ones.
    """
    names = sorted(inputs, key=lambda name: name in defaults)

    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        return function(dict(zip(names, tensors, strict=True)))

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=defaults.get(name, inspect.Parameter.empty),
        )
        for name in names
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    specs = [tf.TensorSpec(inputs[name].shape, inputs[name].dtype, name) for name in names]
    return tf.function(call, input_signature=specs)

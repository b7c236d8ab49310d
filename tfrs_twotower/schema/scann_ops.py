"""ScaNN's TensorFlow ops: where they are, and how a process comes to know them.

Export and server share this: both must register the ops before they load a model that uses them.
"""

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

from tfrs_twotower.schema.errors import UserError

INSTALL = "pip install 'scann[tf]==1.4.2' 'tensorflow==2.20.*'"


def scann_op_library() -> Path:
    """The shared library with ScaNN's ops; nothing is imported to find it.

    Raises:
        UserError: If ScaNN is not installed.
    """
    spec = importlib.util.find_spec("scann")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"ScaNN is not installed: {INSTALL}")
    return Path(spec.submodule_search_locations[0], "scann_ops", "cc", "_scann_ops.so")


# Cached also because AutoGraph, which traces a search that calls this, does not look into what is
# cached: it would warn that it cannot convert `find_spec`.
@functools.cache
def register_scann_ops() -> ModuleType:
    """Makes ScaNN's ops known to TensorFlow in this process; may be called again.

    Returns:
        The Python wrappers of the ops.

    Raises:
        UserError: If ScaNN is not installed, or was built for another TensorFlow.
    """
    # Here, since the rest of `schema` must load without TensorFlow.
    import tensorflow as tf

    library = scann_op_library()
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"ScaNN's ops do not load in TensorFlow {tf.__version__}: install the matched pair, "
            f"{INSTALL}"
        ) from error

"""One version of a model: a SavedModel, loaded to answer.

Runs the graph in a TensorFlow session, as TF Serving does: a call costs a fraction of what a loaded
`tf.function` costs, and closing gives the memory back.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2, saved_model_pb2
from tensorflow.python.saved_model import loader_impl

from serving.errors import INTERNAL_FAULT, LoadError, ServerFaultError, from_status
from serving.request_features import RequestFeatures, read_features
from serving.tensors import Array, Signature
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.scann_ops import register_scann_ops

SAVED_MODEL_FILE = "saved_model.pb"
SCANN_OPS = "Scann>"

# Of all rewrites of a session's graph the inlining of functions is what pays, and TensorFlow does
# it without a rewriter where a call has this attribute: a retriever is loaded in a sixth of the
# time. What functions are not inlined, such as branches, keep the rewrites of their own.
_INLINED = "_lower_as_multi_device_function"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_NO_REWRITES = rewriter_config_pb2.RewriterConfig(disable_meta_optimizer=True)
_FUNCTION_CONFIG = "config_proto"  # Attribute of the calls of functions.

# Where in the graph: "{{function_node __inference_recommend_123}} ".
_NODE = re.compile(r"\{\{(?:function_)?node .*?\}\}")

_LOG = logging.getLogger(__name__)

Adjust = Callable[[Mapping[str, Array], dict[str, Array]], dict[str, Array]]

# Ops run in the thread of the request: the server bounds these, and a hand-over costs more than
# most of the ops. Ops that split their work still use the other cores.
_CALLER_THREAD = -1


class Servable:
    """A loaded version.

    Attributes:
        name: The model's name.
        version: The version's number.
        signatures: By name.
        signature_defs: The same as `SignatureDef` protos, as they were saved.
        features: Counts what requests give of its features.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: tf.compat.v1.Session,
        signature_defs: Mapping[str, Any],
        features: RequestFeatures,
        adjust: Adjust | None = None,
    ) -> None:
        """Takes over a session whose graph is loaded; `load` makes one."""
        self._adjust = adjust
        self.name = name
        self.version = version
        self.signature_defs = signature_defs
        self.features = features
        self.signatures = {
            key: Signature.from_proto(signature_def)
            for key, signature_def in signature_defs.items()
            if not key.startswith("__saved_model_")
        }
        self._session = session
        self._calls = {
            key: session._make_callable_from_options(
                config_pb2.CallableOptions(
                    feed=signature.feeds,
                    fetch=signature.fetches,
                    run_options=config_pb2.RunOptions(inter_op_thread_pool=_CALLER_THREAD),
                )
            )
            for key, signature in self.signatures.items()
        }

    def run(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs a signature.

        Args:
            signature: One of `signatures`.
            inputs: Every input of the signature, of its dtype.

        Returns:
            Every output of the signature; strings are object arrays of bytes.

        Raises:
            ServingError: With the status that TensorFlow gave; ServerFaultError if what adjusts
                the outputs fails.
        """
        spec = self.signatures[signature]
        try:
            outputs = self._calls[signature](*(inputs[name] for name in spec.inputs))
        except tf.errors.OpError as error:
            raise from_status(error.error_code, _first_line(error)) from error
        answer = dict(zip(spec.outputs, outputs, strict=True))
        if self._adjust is None:
            return answer
        try:
            return self._adjust(inputs, answer)
        except Exception as error:  # Of a function that is not ours.
            _LOG.exception("what adjusts the answers of %s failed", self.name)
            raise ServerFaultError(INTERNAL_FAULT) from error

    def close(self) -> None:
        """Frees the graph's memory; no call may be under way."""
        self._calls.clear()
        self._session.close()


def load(
    path: str | Path,
    name: str,
    version: int,
    *,
    optimize: bool = True,
    adjust: Adjust | None = None,
) -> Servable:
    """Loads a version folder.

    Args:
        path: The folder that holds `saved_model.pb`.
        name: The model's name.
        version: The version's number.
        optimize: Whether functions are inlined, and branches rewritten for speed, which makes up
            for itself after some hundred queries.
        adjust: Inputs and outputs of a run -> the outputs to answer with; None: as they are.

    Raises:
        LoadError: If the folder is no SavedModel, is damaged, or needs ops that are not here.
    """
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(
            (Path(path) / SAVED_MODEL_FILE).read_bytes()
        )
    except OSError as error:
        raise LoadError(
            f"{path} is not a SavedModel: cannot read {SAVED_MODEL_FILE} ({error.strerror})"
        ) from error
    except DecodeError as error:
        raise LoadError(f"{path} is damaged: {SAVED_MODEL_FILE} cannot be parsed") from error
    serve = [graph for graph in saved_model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not serve:
        raise LoadError(f"{path} has no graph with the tag `serve`: export it for serving")
    if any(node.op.startswith(SCANN_OPS) for node in _nodes(serve[0].graph_def)):
        try:
            register_scann_ops()
        except UserError as error:
            raise LoadError(f"the model needs ScaNN's ops: {error}") from error
    # A GPU, where there is one, is shared with other processes.
    gpu = config_pb2.GPUOptions(allow_growth=True)
    config = config_pb2.ConfigProto(
        gpu_options=gpu, graph_options=config_pb2.GraphOptions(rewrite_options=_NO_REWRITES)
    )
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    try:
        loader = loader_impl.SavedModelLoader(str(path))
        graph_def = loader.get_meta_graph_def_from_tags(["serve"]).graph_def
        if optimize:
            _inline_functions(graph_def)
        else:
            _leave_functions(graph_def)
        with session.graph.as_default():
            loader.load(session, ["serve"])
        signature_defs = dict(serve[0].signature_def)
        return Servable(name, version, session, signature_defs, read_features(path), adjust)
    except Exception as error:  # Whatever a damaged file makes TensorFlow raise.
        session.close()
        reason = _first_line(error) if isinstance(error, tf.errors.OpError) else error
        raise LoadError(f"cannot load {path}: {reason}") from error


def _inline_functions(graph_def: Any) -> None:
    """Has TensorFlow inline what the graph calls."""
    for node in _nodes(graph_def):
        if node.op in _CALLS:
            node.attr[_INLINED].b = True


def _leave_functions(graph_def: Any) -> None:
    """Has the functions of a graph run as they are; each has rewrites of its own."""
    config = config_pb2.ConfigProto(
        graph_options=config_pb2.GraphOptions(rewrite_options=_NO_REWRITES)
    ).SerializeToString()
    for node in _nodes(graph_def):
        if _FUNCTION_CONFIG in node.attr:
            node.attr[_FUNCTION_CONFIG].s = config


def _nodes(graph_def: Any) -> Iterator[Any]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _first_line(error: tf.errors.OpError) -> str:
    """The sentence of a TensorFlow error, without the places in the graph around it."""
    lines = [_NODE.sub("", line).strip() for line in str(error.message).splitlines()]
    said = [
        line
        for line in lines
        if line and line != "Graph execution error:" and not line.endswith("root error(s) found.")
    ]
    return re.sub(r"^\(0\) [A-Z_]+: ", "", said[0]) if said else type(error).__name__

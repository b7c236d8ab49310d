"""Writes the SavedModels of an export: signatures, warm-up requests, manifest."""

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tfrs_twotower.publishing._named_defaults import with_named_defaults
from tfrs_twotower.retrieval.padding import refusing_filled_lists
from tfrs_twotower.retrieval.retriever import Signature
from tfrs_twotower.schema.folders import MANIFEST, write_json
from tfrs_twotower.schema.models_layout import EXTRA_ASSETS
from tfrs_twotower.schema.version import __version__

WARMUP_REQUESTS = "tf_serving_warmup_requests"
WARMUP_BATCH_SIZES = (1, 8, 64)
SCANN_NAMESPACE = "Scann"
VARIABLES = "variables"  # Folder of a SavedModel, of files alone.
# Bytes of a variable that has a file of its own.
LARGE = 1 << 20


class LargeApart(tf.train.experimental.ShardingCallback):
    """A file for each large variable: one that the next version keeps can be the same file."""

    @property
    def description(self) -> str:
        """See `tf.train.experimental.ShardingCallback`."""
        return "Each large tensor has a shard of its own, the others have one together."

    def __call__(self, shardable_tensors: Sequence[Any]) -> list[dict[str, Any]]:
        """See `tf.train.experimental.ShardingCallback`."""
        together: dict[str, Any] = {}
        shards = [together]
        for one in shardable_tensors:
            shard = together
            if (one.shape.num_elements() or 0) * one.dtype.size >= LARGE:
                shard = {}
                shards.append(shard)
            shard.setdefault(one.checkpoint_key, {})[one.slice_spec] = one.tensor
        return shards


def save(
    module: tf.Module,
    signatures: Mapping[str, Signature],
    folder: str | Path,
    *,
    model_name: str,
    facts: Mapping[str, Any],
    searcher_bytes: int = 0,
) -> dict[str, Any]:
    """Writes one SavedModel; the caller publishes the folder by renaming it.

    Args:
        module: Holds every variable and table that the signatures read.
        signatures: By name; one is `serving_default`.
        folder: Version folder to write; must not exist.
        model_name: The name under which TF Serving serves the model.
        facts: What the caller adds to the manifest: `schema_fingerprint`, `towers_digest`, ...
        searcher_bytes: See `CandidateIndex.searcher_bytes`.

    Returns:
        The manifest, which is also written to `assets.extra/manifest.json`.
    """
    folder = Path(folder)
    tf.saved_model.save(
        module,
        str(folder),
        signatures={
            name: with_named_defaults(
                refusing_filled_lists(one.function, one.inputs), one.inputs, one.defaults
            )
            for name, one in signatures.items()
        },
        options=tf.saved_model.SaveOptions(
            namespace_whitelist=[SCANN_NAMESPACE], experimental_sharding_callback=LargeApart()
        ),
    )
    extra = folder / EXTRA_ASSETS
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / WARMUP_REQUESTS)) as writer:
        for log in warmup_requests(model_name, signatures):
            writer.write(log.SerializeToString(deterministic=True))
    ops = graph_ops(folder)
    custom = custom_ops(ops)
    variables_bytes = sum(path.stat().st_size for path in (folder / VARIABLES).iterdir())
    manifest = {
        "kind": "saved_model",
        "model": model_name,
        "versions": _versions(),
        "minimum_server": _minimum_server(custom),
        "ops": ops,
        "custom_ops": custom,
        "memory_bytes": variables_bytes + searcher_bytes,
        **facts,
    }
    write_json(extra / MANIFEST, manifest)
    return manifest


def warmup_requests(
    model_name: str, signatures: Mapping[str, Signature]
) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Requests that make a server build what it builds on first use, as TF Serving reads them.

    Every input is there, also the optional ones: all but those are zeros and empty strings.

    Args:
        model_name: See `save`.
        signatures: By name.

    Yields:
        One request for each signature and batch size.
    """
    for name, signature in signatures.items():
        for batch_size in WARMUP_BATCH_SIZES:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            for key, spec in signature.inputs.items():
                value = _warmup_value(spec, signature.defaults.get(key), batch_size)
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value.numpy(), spec.dtype))
            yield prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )


def graph_ops(folder: str | Path) -> list[str]:
    """Names of the ops in the graph of a SavedModel and in its functions, sorted.

    Args:
        folder: Holds `saved_model.pb`.
    """
    saved_model = saved_model_pb2.SavedModel.FromString(
        (Path(folder) / "saved_model.pb").read_bytes()
    )
    ops: set[str] = set()
    for meta_graph in saved_model.meta_graphs:
        library = meta_graph.graph_def.library
        ops.update(node.op for node in meta_graph.graph_def.node)
        ops.update(node.op for function in library.function for node in function.node_def)
        ops.difference_update(function.signature.name for function in library.function)
    return sorted(ops)


def custom_ops(ops: list[str]) -> list[str]:
    """Those of the ops that TensorFlow itself does not have: a server must be given them."""
    return [op for op in ops if not hasattr(tf.raw_ops, op)]


def _warmup_value(spec: tf.TensorSpec, default: tf.Tensor | None, batch_size: int) -> tf.Tensor:
    if default is not None:
        return tf.repeat(default, batch_size, axis=0)
    shape = [size or 1 for size in spec.shape[1:]]
    return tf.zeros([batch_size, *shape], spec.dtype)


def _versions() -> dict[str, str]:
    return {
        "tensorflow": tf.__version__,
        "scann": importlib.metadata.version("scann"),
        "tfrs_twotower": __version__,
    }


def _minimum_server(custom: list[str]) -> dict[str, Any]:
    """A graph of one minor version of TensorFlow may hold ops and attributes new in it."""
    libraries = {f"scann {_versions()['scann']}" for op in custom if op.startswith("Scann>")}
    return {
        "tensorflow_serving": ".".join(tf.__version__.split(".")[:2]),
        "op_libraries": sorted(libraries),
    }

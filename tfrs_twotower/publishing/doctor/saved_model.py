"""One version of one model by itself: its files, operations, defaults, warm-up requests."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from tfrs_twotower.publishing.doctor.findings import EXPORT_AGAIN, Finding
from tfrs_twotower.publishing.models_folder import STOCK_CONFIG_FILE
from tfrs_twotower.publishing.saved_model_reader import LoadedSignature
from tfrs_twotower.publishing.saved_model_writer import WARMUP_REQUESTS, custom_ops, graph_ops
from tfrs_twotower.schema.folders import MANIFEST
from tfrs_twotower.schema.models_layout import EXTRA_ASSETS

EMBEDDED = "embedded"
STOCK = re.compile(r"tensorflow/serving:(\d+)\.(\d+)(?:\.\d+)?(?:-gpu)?")


def check_saved_model(folder: Path, target: str) -> Iterator[Finding]:
    """One version of one model, by itself."""
    where = f"{folder.parent.name}/{folder.name}"
    try:
        proto = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        reason = "cannot be parsed" if isinstance(error, DecodeError) else "is missing"
        yield Finding("error", where, f"saved_model.pb {reason}", EXPORT_AGAIN)
        return
    graph = proto.meta_graphs[0]
    yield _check_manifest(folder, where)
    yield from _check_ops(folder, graph, where, target)
    yield from _check_defaults(graph, where)
    yield from _check_warmup(folder, graph, where)


def _check_manifest(folder: Path, where: str) -> Finding:
    path = folder / EXTRA_ASSETS / MANIFEST
    if not path.exists():
        return Finding("error", where, f"{EXTRA_ASSETS}/{MANIFEST} is missing", EXPORT_AGAIN)
    return Finding("ok", where, "manifest")


def _check_ops(folder: Path, graph: Any, where: str, target: str) -> Iterator[Finding]:
    """The operations in the graph, and its TensorFlow, against what serves it."""
    custom = custom_ops(graph_ops(folder))
    foreign = [op for op in custom if not op.startswith("Scann>")]
    if foreign:
        yield Finding(
            "error",
            where,
            f"nothing serves its operations {', '.join(foreign)}",
            "keep to TensorFlow's own operations in towers",
        )
    stock = STOCK.fullmatch(target)
    if stock is None:
        if not foreign:
            yield Finding("ok", where, f"operations: {', '.join(custom) or 'all TensorFlow'}")
        return
    if custom:
        yield Finding(
            "error",
            where,
            f"{target} does not know {', '.join(custom)}",
            f"serve {STOCK_CONFIG_FILE} there, or use `twotower serve`",
        )
    made_with = graph.meta_info_def.tensorflow_version
    minor = tuple(int(part) for part in made_with.split(".")[:2])
    if minor > (int(stock[1]), int(stock[2])):
        yield Finding(
            "error",
            where,
            f"it was made with TensorFlow {made_with}, newer than {target}",
            f"use tensorflow/serving:{minor[0]}.{minor[1]}.0 or newer",
        )
    elif not custom:
        yield Finding("ok", where, f"{target} knows its operations")


def _check_defaults(graph: Any, where: str) -> Iterator[Finding]:
    """Every input of `recommend` that `serving_default` lacks must have a default."""
    signatures = graph.signature_def
    if "recommend" not in signatures:
        return
    recommend = signatures["recommend"]
    optional = recommend.inputs.keys() - signatures["serving_default"].inputs.keys()
    lost = sorted(optional - recommend.defaults.keys())
    if lost:
        yield Finding(
            "error",
            where,
            f"the optional inputs {', '.join(lost)} have no default: every request must name them",
            f"{EXPORT_AGAIN}; a tool that rewrites SavedModels may drop them",
        )
    else:
        yield Finding("ok", where, "optional inputs have defaults")


def _check_warmup(folder: Path, graph: Any, where: str) -> Iterator[Finding]:
    """Loads the model and replays its warm-up requests against its signatures."""
    path = folder / EXTRA_ASSETS / WARMUP_REQUESTS
    if not path.exists():
        yield Finding("warning", where, "no warm-up requests: the first caller waits", EXPORT_AGAIN)
    try:
        records = list(tf.data.TFRecordDataset(str(path))) if path.exists() else []
        if path.exists() and not records:
            raise DecodeError("no record")
        logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    except (tf.errors.OpError, DecodeError):
        yield Finding("error", where, "the warm-up file is damaged", f"remove {path}")
        return
    requests = [log.predict_log.request for log in logs]
    for request in requests:
        name = request.model_spec.signature_name
        problem = _mismatch(graph.signature_def, name, request)
        if problem:
            yield Finding("error", where, f"a warm-up request {problem}", f"remove {path}")
            return
    models = {}
    try:
        for name in {request.model_spec.signature_name for request in requests} or {
            "serving_default"
        }:
            models[name] = LoadedSignature(folder, name)
        for request in requests:
            inputs = {key: tf.constant(tf.make_ndarray(t)) for key, t in request.inputs.items()}
            models[request.model_spec.signature_name](inputs)
    except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        yield Finding("error", where, f"it does not load or run: {first}", EXPORT_AGAIN)
        return
    yield Finding("ok", where, f"{len(requests)} warm-up requests replayed")


def _mismatch(signatures: Mapping[str, Any], name: str, request: Any) -> str:
    """What a server would refuse the request for; "" where nothing."""
    if name not in signatures:
        return f"asks signature {name!r}, which the model lacks"
    signature = signatures[name]
    if unknown := request.inputs.keys() - signature.inputs.keys():
        return f"of {name} has the unknown input {min(unknown)}"
    if missing := signature.inputs.keys() - request.inputs.keys() - signature.defaults.keys():
        return f"of {name} lacks the input {min(missing)}"
    wrong = (n for n, t in request.inputs.items() if t.dtype != signature.inputs[n].dtype)
    name_of_wrong = next(wrong, None)
    return f"of {name} has the wrong type for {name_of_wrong}" if name_of_wrong else ""

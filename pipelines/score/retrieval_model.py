"""Queries as Arrow tables -> the answers of a retrieval model, also as Arrow tables.

The model is asked through its `recommend` signature: the same graph, rules and defaults as online.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipelines.io import filesystem
from pipelines.io.filesystem import join, read_bytes
from pipelines.io.tables import column
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.requests import one_row

SIGNATURE = "recommend"
SAVED_MODEL_FILE = "saved_model.pb"
SCANN_PREFIX = b"Scann>"
QUERY_ID, CANDIDATE_IDS, SCORES = "query_id", "candidate_ids", "scores"
# Queries that the model is asked at once.
BATCH_QUERIES = 512


class Contract(NamedTuple):
    """What a model wants to be given."""

    features: Mapping[str, tf.TensorSpec]  # By name; batch first.
    rules: Mapping[str, tf.TensorSpec]  # The optional inputs.
    defaults: Mapping[str, np.ndarray]  # Of the rules, one row.


def read_contract(model: str) -> Contract:
    """Reads the inputs of a version folder without loading the model.

    Raises:
        UserError: If the folder holds no SavedModel with a `recommend` signature.
    """
    graph = _graph(model)
    if SIGNATURE not in graph.signature_def:
        raise UserError(f"{model} has no signature `{SIGNATURE}`: name an exported retrieval model")
    signature = graph.signature_def[SIGNATURE]
    specs = {
        name: tf.TensorSpec(info.tensor_shape, info.dtype, name)
        for name, info in sorted(signature.inputs.items())
    }
    defaults = {name: tf.make_ndarray(value) for name, value in signature.defaults.items()}
    return Contract(
        features={name: spec for name, spec in specs.items() if name not in defaults},
        rules={name: spec for name, spec in specs.items() if name in defaults},
        defaults=defaults,
    )


class Model:
    """A loaded retrieval model."""

    def __init__(self, folder: str) -> None:
        """Loads a version folder, and ScaNN's ops where the graph has some."""
        self.contract = read_contract(folder)
        if SCANN_PREFIX in read_bytes(join(folder, SAVED_MODEL_FILE)):
            import scann  # noqa: F401  # Registers its ops.
        with filesystem.local_copy(folder) as local:
            self._loaded = tf.saved_model.load(local)
        self._recommend = self._loaded.signatures[SIGNATURE]

    def answer(self, table: pa.Table, key: str, rules: Mapping[str, Any]) -> pa.Table:
        """Answers queries.

        Args:
            table: A row a query: `key`, features and rules by name; what has no column is
                missing, or as `rules` say.
            key: The column of the queries' ids.
            rules: Values of optional inputs for all queries.

        Returns:
            A row a query, in the same order: `query_id`, `candidate_ids` and `scores`, best first.
        """
        parts = [
            self._answer_batch(table.slice(start, BATCH_QUERIES), rules)
            for start in range(0, table.num_rows, BATCH_QUERIES)
        ]
        lists = pa.concat_tables(parts).combine_chunks()
        return lists.add_column(0, QUERY_ID, column(table, key).cast(pa.string()))

    def _answer_batch(self, table: pa.Table, rules: Mapping[str, Any]) -> pa.Table:
        contract = self.contract
        inputs = {name: raw_values(spec, table, name) for name, spec in contract.features.items()}
        for name, spec in contract.rules.items():
            if name in table.column_names:
                inputs[name] = raw_values(spec, table, name, contract.defaults[name])
            elif name in rules:
                inputs[name] = one_row(name, numpy_dtype(spec), spec.shape.rank, rules[name])
            else:
                inputs[name] = contract.defaults[name]
        outputs = self._recommend(**{name: tf.constant(value) for name, value in inputs.items()})
        counts = outputs["valid_count"].numpy()
        is_valid = np.arange(outputs["scores"].shape[1]) < counts[:, np.newaxis]
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        ids = pa.array(outputs["candidate_ids"].numpy()[is_valid], pa.binary()).cast(pa.string())
        scores = pa.array(outputs["scores"].numpy()[is_valid], pa.float32())
        return pa.table(
            {
                CANDIDATE_IDS: pa.ListArray.from_arrays(offsets, ids),
                SCORES: pa.ListArray.from_arrays(offsets, scores),
            }
        )


def version_numbers(base_path: str) -> list[int]:
    """The version numbers under the base path of a model, ascending."""
    return sorted(int(name) for name in filesystem.names(base_path) if name.isdecimal())


def missing_value(spec: tf.TensorSpec) -> str | float | int:
    """What stands for "not known" in a tensor of a dtype."""
    if spec.dtype == tf.string:
        return ""
    return float("nan") if spec.dtype.is_floating else 0


def raw_values(
    spec: tf.TensorSpec, table: pa.Table, name: str, default: np.ndarray | None = None
) -> np.ndarray:
    """A column as a raw tensor.

    Args:
        spec: dtype and shape, batch first.
        table: `n` rows.
        name: The column; where the table has none, all rows are missing.
        default: `[1]` or `[1, m]`, what null stands for; None: the missing value.

    Returns:
        `[n]` or `[n, m]`, lists padded with the missing value; those of text start with "", so
        that no signature takes them for filled up by a server.
    """
    missing = missing_value(spec)
    dtype = numpy_dtype(spec)
    num_rows = table.num_rows
    if name not in table.column_names:
        shape = [num_rows, *(size or 1 for size in spec.shape[1:])]
        return np.full(shape, missing, dtype)
    values = column(table, name)
    if spec.shape.rank == 1:
        filler = missing if default is None else default[0].item()
        return pc.fill_null(values, filler).to_numpy(zero_copy_only=False).astype(dtype)
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    start = int(spec.dtype == tf.string and spec.shape[1] is None)
    width = spec.shape[1] or max(1, start + int(lengths.max(initial=0)))
    padded = np.full((num_rows, width), missing, dtype)
    flat = pc.fill_null(pc.list_flatten(values), missing)
    place = np.arange(width) - start
    padded[(place >= 0) & (place < lengths[:, np.newaxis])] = flat.to_numpy(zero_copy_only=False)
    return padded


def numpy_dtype(spec: tf.TensorSpec) -> type:
    """What an array that holds an input is of; `object` for text."""
    return object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype


def arrow_type(spec: tf.TensorSpec) -> pa.DataType:
    """The type of a column that holds an input."""
    value = (
        pa.string() if spec.dtype == tf.string else pa.from_numpy_dtype(spec.dtype.as_numpy_dtype)
    )
    return value if spec.shape.rank == 1 else pa.list_(value)


def _graph(model: str) -> Any:
    try:
        saved_model = saved_model_pb2.SavedModel.FromString(
            read_bytes(join(model, SAVED_MODEL_FILE))
        )
    except OSError as error:
        raise UserError(f"{model} is no SavedModel: cannot read {SAVED_MODEL_FILE}") from error
    return saved_model.meta_graphs[0]

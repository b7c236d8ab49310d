"""The request log of a server as impressions: which candidates were shown, when, to whom, by what.

A file of the log is a TFRecord file of TF Serving's `PredictionLog`. An impression is a row of a
dataset folder's interactions, so that `prepare` reads it beside the clicks.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from tfrs_twotower.features.encoding import missing_value
from tfrs_twotower.schema import Config, Parameter, UsageError, UserError
from tfrs_twotower.schema.columns import UNITS_A_SECOND
from tfrs_twotower.schema.features import Boolean, Feature, Timestamp

LOG_FILES = "*.tfrecord.gz"
FILE_NAME = re.compile(r"interactions.*\.parquet")

QUERY_ID, CANDIDATE_ID, TIME_S, RANK = "query_id", "candidate_id", "time_s", "rank"
MODEL, VERSION, LABEL = "model", "version", "label"
# Of what served an impression, in the files of a dataset folder: not read by `prepare`.
SERVED = "served_"

# Records of a log that hold no impressions.
OTHER_SIGNATURE, NO_QUERY_ID = "other_signature", "no_query_id"

_SCHEMA = pa.schema(
    [
        (QUERY_ID, pa.string()),
        (CANDIDATE_ID, pa.string()),
        (TIME_S, pa.int64()),
        (RANK, pa.int32()),
        (MODEL, pa.string()),
        (VERSION, pa.int64()),
        (LABEL, pa.string()),
    ]
)


@dataclass(frozen=True)
class Written:
    """What became of a log.

    Attributes:
        num_files: Files of the log.
        num_impressions: Rows written.
        skipped: Records and queries without impressions, by reason: "other_signature", which
            answers with something else than recommendations; "no_query_id", a query without id.
    """

    num_files: int
    num_impressions: int
    skipped: dict[str, int]


def log_files(folder: str | Path) -> list[Path]:
    """The whole files of a request log, in the order of their names.

    Raises:
        UserError: If there is none.
    """
    found = sorted(Path(folder).rglob(LOG_FILES))
    if not found:
        raise UserError(
            f"no {LOG_FILES} in {folder}: a server writes them where its models.config has a "
            "`logging_config`, each once it is whole"
        )
    return found


def prediction_logs(path: Path) -> Iterator[Any]:
    """The `PredictionLog` records of a file of a request log, in their order.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        records = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
        for record in records.as_numpy_iterator():
            yield prediction_log_pb2.PredictionLog.FromString(record)
    except (tf.errors.OpError, DecodeError) as error:
        raise damaged(path) from error


def damaged(path: Path) -> UserError:
    """What to raise for a file that holds something else than answered requests."""
    return UserError(f"{path} is no request log, or damaged: remove it")


def read_impressions(
    path: Path, config: Config, skipped: Counter[str], *, max_rank: int | None = None
) -> pa.Table:
    """The impressions of a file of a request log.

    Args:
        path: The file.
        config: Names the features of a request.
        skipped: Gets what has no impressions, see `Written`.
        max_rank: How many of an answer's candidates were shown; None: all.

    Returns:
        A row an impression, in the order of the log: query_id, candidate_id, time_s, rank (from 1),
        model, version, label ("" where none was asked) and the context by column.

    Raises:
        UserError: If the config has no id of the query, or the file is damaged.
    """
    if config.query_id is None:
        raise UserError(
            "requests do not carry `columns.query_id`: add the feature `{kind: id}` to "
            "`features.query`, or write down what is shown yourself"
        )
    context = _context(config)
    fields = [pa.field(column, _type(feature)) for column, (_, feature) in context.items()]
    rows: list[dict[str, Any]] = []
    for log in prediction_logs(path):
        try:
            rows += _rows(log, config.query_id.name, context, skipped, max_rank)
        except TypeError as error:
            raise damaged(path) from error
    return pa.Table.from_pylist(rows, pa.schema([*_SCHEMA, *fields]))


def write_impressions(
    logs: str | Path,
    config: Config,
    output: str | Path,
    *,
    event: str = "impression",
    max_rank: int | None = None,
    overwrite: bool = False,
) -> Written:
    """Turns a request log into a file of a dataset folder's interactions.

    Args:
        logs: The folder of the log.
        config: Of the dataset folder; names the columns.
        output: `interactions*.parquet` of the dataset folder; appears whole or not at all.
        event: What `columns.event` holds; `labels.events` gives it label 0.
        max_rank: How many of an answer's candidates were shown; None: all.
        overwrite: Whether to replace the file.

    Raises:
        UsageError: If the config has no such event, or the output cannot be taken.
        UserError: See `log_files` and `read_impressions`.
    """
    path = Path(output)
    _check_config(config, event)
    if not FILE_NAME.fullmatch(path.name):
        raise UsageError(f"{path}: `prepare` reads files named interactions*.parquet: name one")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists: pass ", Parameter("overwrite", True), " to replace it")
    files = log_files(logs)
    skipped: Counter[str] = Counter()
    num_impressions = 0
    beside = path.with_name(f".{path.name}.tmp")
    writer: pq.ParquetWriter | None = None
    try:
        for file in files:
            impressions = read_impressions(file, config, skipped, max_rank=max_rank)
            table = _as_interactions(impressions, config, event)
            writer = writer or pq.ParquetWriter(beside, table.schema)
            writer.write_table(table)
            num_impressions += len(table)
        assert writer is not None
        writer.close()
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return Written(len(files), num_impressions, dict(sorted(skipped.items())))


def _check_config(config: Config, event: str) -> None:
    columns, rule = config.columns, config.labels.events.get(event)
    if columns.timestamp is None or columns.event is None:
        raise UsageError(
            "impressions are told from clicks by `columns.event`, and precede them by "
            "`columns.timestamp`: the config needs both"
        )
    if rule is None or rule.label != 0:
        raise UsageError(
            f"the config has no negative event `{event}`: add `labels: {{events: {{{event}: "
            "{label: 0, unless_positive_within_s: 86400}}}`"
        )


def _context(config: Config) -> dict[str, tuple[str, Feature]]:
    """Name of the input and feature, by column; the moment is that of the answer."""
    context = {}
    for name, feature in config.features.context.items():
        column = config.column_of("context", name)
        if column is not None and column != config.columns.timestamp:
            context[column] = name, feature
    return context


def _rows(
    log: Any,
    query_id: str,
    context: Mapping[str, tuple[str, Feature]],
    skipped: Counter[str],
    max_rank: int | None,
) -> Iterator[dict[str, Any]]:
    request, response = log.predict_log.request, log.predict_log.response
    if not {"candidate_ids", "valid_count"} <= response.outputs.keys():
        skipped[OTHER_SIGNATURE] += 1
        return
    ids, counts = (
        tf.make_ndarray(response.outputs[name]) for name in ("candidate_ids", "valid_count")
    )
    queries = _per_query(request, query_id, len(ids))
    values = {column: _per_query(request, name, len(ids)) for column, (name, _) in context.items()}
    served = {
        TIME_S: log.log_metadata.timestamp_secs,
        MODEL: response.model_spec.name,
        VERSION: response.model_spec.version.value,
        LABEL: request.model_spec.version_label,
    }
    for number, (row, count) in enumerate(zip(ids, counts.tolist(), strict=True)):
        if queries is None or not queries[number]:
            skipped[NO_QUERY_ID] += 1
            continue
        moment = {
            column: None if of_all is None else _plain(context[column][1], of_all[number])
            for column, of_all in values.items()
        }
        for rank, candidate in enumerate(row[:count][:max_rank], 1):
            yield {
                QUERY_ID: queries[number].decode(),
                CANDIDATE_ID: candidate.decode(),
                RANK: rank,
                **served,
                **moment,
            }


def _per_query(request: Any, name: str, num_queries: int) -> Any:
    """An input, a row a query; None where the request does not give it."""
    if name not in request.inputs:
        return None
    values = tf.make_ndarray(request.inputs[name])
    # One row stands for all queries.
    return np.broadcast_to(values, [num_queries, *values.shape[1:]])


def _plain(feature: Feature, value: Any) -> Any:
    """A value of a request as files hold it; None where it is missing."""
    missing = missing_value(feature)
    if np.ndim(value):
        return [_plain_element(element) for element in value if element not in (b"", missing)]
    plain = _plain_element(value)
    if plain == missing or plain != plain:
        return None
    return bool(plain) if isinstance(feature, Boolean) else plain


def _plain_element(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()


def _type(feature: Feature) -> pa.DataType:
    """The type of a context feature's column."""
    kinds = {
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "timestamp": pa.int64(),
        "vector": pa.list_(pa.float64()),
        "multi_categorical": pa.list_(pa.string()),
    }
    return kinds.get(feature.kind, pa.string())


def _as_interactions(impressions: pa.Table, config: Config, event: str) -> pa.Table:
    """The columns that the config names, then what served them."""
    columns, num_rows = config.columns, len(impressions)
    table: dict[str, Any] = {
        columns.query_id: impressions[QUERY_ID],
        columns.candidate_id: impressions[CANDIDATE_ID],
        str(columns.timestamp): _moments(impressions[TIME_S], columns.time_format),
        str(columns.event): pa.array([event] * num_rows, pa.string()),
    }
    if columns.value is not None:
        table[columns.value] = pa.nulls(num_rows, pa.float64())
    if columns.order is not None:  # What was shown came before what was clicked in that second.
        table[columns.order] = pa.array(np.zeros(num_rows, np.int64))
    if config.split.by == "column":
        table[str(columns.split)] = pa.array(["train"] * num_rows, pa.string())
    for column, (_, feature) in _context(config).items():
        values = impressions[column]
        is_moment = isinstance(feature, Timestamp)
        table[column] = _moments(values, columns.time_format) if is_moment else values
    for name in (RANK, MODEL, VERSION, LABEL):
        table[SERVED + name] = impressions[name]
    return pa.table(table)


def _moments(seconds: pa.ChunkedArray, time_format: str | None) -> pa.Array:
    """Unix seconds as the files of the dataset folder write times."""
    if time_format is None:
        return seconds
    if time_format in UNITS_A_SECOND:
        factor = UNITS_A_SECOND[time_format]
        return pa.array([None if s is None else s * factor for s in seconds.to_pylist()])
    return pa.array(
        [
            None if s is None else datetime.fromtimestamp(s, UTC).strftime(time_format)
            for s in seconds.to_pylist()
        ],
        pa.string(),
    )

"""Raw batches -> sound rows in canonical form, and a reason for each of the others.

Pure functions on Arrow tables. A row that breaks several rules is rejected for the first, in the
order in which the rules are applied here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.tables import column, dictionary, indices
from pipelines.prepare.catalogue import Catalogue
from pipelines.prepare.columns import (
    TOKEN_SEPARATOR,
    to_attribute,
    to_feature,
    to_floats,
    to_integers,
    to_seconds,
    to_text,
)
from pipelines.prepare.parsing import INVALID_UTF8, MALFORMED_LINE
from tfrs_twotower.schema import SPLITS, Config
from tfrs_twotower.schema.features import Feature, History, Id, is_aggregate
from tfrs_twotower.schema.labels import Labels

MISSING_ID = "missing_id"
BAD_TIMESTAMP, TIMESTAMP_NOT_SECONDS = "bad_timestamp", "timestamp_not_seconds"
BAD_ORDER, BAD_SPLIT, BAD_VALUE, BAD_FEATURE = "bad_order", "bad_split", "bad_value", "bad_feature"
UNKNOWN_EVENT, UNKNOWN_VALUE = "unknown_event", "unknown_value"
UNKNOWN_CANDIDATE, DUPLICATE_ID = "unknown_candidate", "duplicate_id"

REASONS = (
    MALFORMED_LINE,
    INVALID_UTF8,
    MISSING_ID,
    BAD_TIMESTAMP,
    TIMESTAMP_NOT_SECONDS,
    BAD_ORDER,
    BAD_SPLIT,
    BAD_VALUE,
    UNKNOWN_EVENT,
    UNKNOWN_VALUE,
    BAD_FEATURE,
    UNKNOWN_CANDIDATE,
    DUPLICATE_ID,
)
"""Every reason for which a record is rejected; a counter's name each."""
CURES = {
    TIMESTAMP_NOT_SECONDS: "times are neither Unix seconds nor ISO 8601: say how they are "
    "written in `columns.time_format` (milliseconds, '%d/%m/%Y', ...)",
    BAD_TIMESTAMP: "times are not as `columns.time_format` says, or out of range",
    MISSING_ID: "an id column is empty",
    MALFORMED_LINE: "the lines do not have the fields of the header (see `files.separator`), or "
    "are no JSON objects of plain values",
    INVALID_UTF8: "the text is not UTF-8: state `files.encoding`, such as cp1252 or utf-16",
    BAD_VALUE: "the values are no numbers; a decimal comma is stated by `files.decimal: ','`",
    BAD_FEATURE: "a feature cannot be read as its kind; a decimal comma is stated by "
    "`files.decimal: ','`, how times are written by `columns.time_format`",
    UNKNOWN_CANDIDATE: "the candidates file does not list these ids",
    UNKNOWN_EVENT: "give every event type a rule in `labels.events`",
    UNKNOWN_VALUE: "give every value a rule in `labels.values`",
}
"""What to do where most records are rejected for a reason."""

# Columns of valid events.
QUERY_ID, CANDIDATE_ID, CANDIDATE_ROW = "query_id", "candidate_id", "candidate_row"
TIMESTAMP_S, ORDER, SPLIT, LABEL, WEIGHT = "timestamp_s", "order", "split", "label", "weight"
WINDOW_S, VALUE = "window_s", "value"
FEATURE = "feature:"  # Prefix of feature columns.

END_OF_TIME_S = 4_102_444_800  # 1 January 2100.
FIRST_NOT_SECONDS = 100_000_000_000  # In seconds the year 5138, in milliseconds 1973.
DATE_TEXT = r"^\s*[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|^\s*[0-9]{1,2}[./][0-9]{1,2}[./][0-9]{2,4}"
FRACTION_TEXT = r"^\s*[0-9]{1,12}\.[0-9]+\s*$"


class Validated(NamedTuple):
    """The sound rows of a table, and why the others are not."""

    table: pa.Table  # The sound rows, in their order.
    reasons: np.ndarray  # [n] int8: position in `REASONS`, or -1 for a sound row.


class _Reasons:
    """The first reason of each row."""

    def __init__(self, num_rows: int) -> None:
        self.codes = np.full(num_rows, -1, np.int8)

    def add(self, is_bad: np.ndarray, reason: str) -> None:
        self.codes[is_bad & (self.codes < 0)] = REASONS.index(reason)

    def keep(self, columns: Mapping[str, pa.Array]) -> Validated:
        table = pa.table(dict(columns))
        if (self.codes >= 0).any():
            table = table.filter(pa.array(self.codes < 0))
        return Validated(table, self.codes)


def validate_events(raw: pa.Table, config: Config, catalogue: Catalogue | None) -> Validated:
    """Checks interactions and applies the label rules.

    Args:
        raw: The columns of `dataset_files.needed_columns`, in any type.
        config: Names their roles.
        catalogue: The known candidates; None: all are welcome.

    Returns:
        Events with query_id (dictionary), candidate_row (int32) or, without a catalogue,
        candidate_id (dictionary), timestamp_s (int64, 0 without times), label (int8),
        weight (float32), and where the config has them order (int64), split (int8, position in
        `SPLITS`), window_s (int64, in which a positive outdoes the negative; 0: none), value
        (float64, where an aggregate reads it) and the context features.
    """
    roles = config.columns
    reasons = _Reasons(raw.num_rows)
    query_ids = dictionary(to_text(column(raw, roles.query_id)))
    candidate_ids = dictionary(to_text(column(raw, roles.candidate_id)))
    for ids in (query_ids, candidate_ids):
        reasons.add(_where_missing(ids), MISSING_ID)
    columns: dict[str, pa.Array] = {QUERY_ID: query_ids}
    timestamps = pa.array(np.zeros(raw.num_rows, np.int64))
    if roles.timestamp is not None:
        timestamps = _timestamps(column(raw, roles.timestamp), roles.time_format, reasons)
    columns[TIMESTAMP_S] = timestamps
    if roles.order is not None:
        orders, is_bad = to_integers(column(raw, roles.order))
        reasons.add(is_bad | _mask(pc.is_null(orders)), BAD_ORDER)
        columns[ORDER] = pc.fill_null(orders, 0)
    if config.split.by == "column":
        columns[SPLIT] = _splits(column(raw, str(roles.split)), reasons)
    columns |= _labels(raw, config, reasons)
    columns |= _features(raw, config, "context", reasons, timestamps)
    if catalogue is None:
        columns[CANDIDATE_ID] = candidate_ids
    else:
        rows = catalogue.rows(candidate_ids.dictionary)[indices(candidate_ids)]
        reasons.add(rows < 0, UNKNOWN_CANDIDATE)
        columns[CANDIDATE_ROW] = pa.array(rows)
    return reasons.keep(columns)


def validate_entities(
    raw: pa.Table, config: Config, side: str, *, as_of_now: bool = False
) -> Validated:
    """Checks rows of the candidates or queries file.

    Args:
        raw: The columns of `dataset_files.needed_columns`, in any type.
        config: Names their roles.
        side: "candidate" or "query".
        as_of_now: Whether the file gives the aggregates, too.

    Returns:
        Entities with candidate_id or query_id (string) and the features of the side; candidates
        also with `title` and `available_from` where the config names them, and the export
        attributes, prefixed by `ATTRIBUTE`.
    """
    reasons = _Reasons(raw.num_rows)
    id_column = getattr(config.columns, f"{side}_id")
    ids = to_text(column(raw, id_column))
    ids = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
    reasons.add(_mask(pc.equal(ids, "")), MISSING_ID)
    columns: dict[str, pa.Array] = {f"{side}_id": ids}
    if side == "candidate":
        if config.columns.title is not None:
            columns[TITLE] = _decoded(to_text(column(raw, config.columns.title)))
        if config.columns.available_from is not None:
            starts = column(raw, config.columns.available_from)
            moments, is_bad = to_seconds(starts, config.columns.time_format)
            reasons.add(is_bad, BAD_TIMESTAMP)
            columns[AVAILABLE_FROM] = moments
        for name in config.export.attributes:
            columns[ATTRIBUTE + name] = to_attribute(column(raw, name))
    columns |= _features(raw, config, side, reasons, None, as_of_now=as_of_now)
    return reasons.keep({name: _decoded(values) for name, values in columns.items()})


TITLE, AVAILABLE_FROM = "title", "available_from"
ATTRIBUTE = "attribute:"  # Prefix of export attributes.


def numeric_columns(config: Config) -> frozenset[str]:
    """Columns of all files that hold numbers, not text."""
    roles = config.columns
    named = {roles.timestamp, roles.order, roles.value, roles.available_from}
    for side in ("query", "context", "candidate"):
        for name, feature in getattr(config.features, side).items():
            if feature.kind in ("number", "boolean", "vector", "timestamp"):
                named.add(config.column_of(side, name))
    # A column with a second role as a category keeps the text of its numbers.
    for side in ("query", "context", "candidate"):
        for name, feature in getattr(config.features, side).items():
            if feature.kind in ("id", "categorical", "multi_categorical", "text"):
                named.discard(config.column_of(side, name))
    as_text = {None, roles.query_id, roles.candidate_id, roles.event}
    return frozenset(column for column in named if column and column not in as_text)


def tokens_of(text: pa.Array) -> pa.Array:
    """Lists of tokens of a multi-valued feature's canonical text."""
    lists = pc.split_pattern(text, TOKEN_SEPARATOR)
    return pc.if_else(pc.equal(text, ""), pa.scalar([], lists.type), lists)


def _features(
    raw: pa.Table,
    config: Config,
    side: str,
    reasons: _Reasons,
    timestamps: pa.Array | None,
    *,
    as_of_now: bool = False,
) -> dict[str, pa.Array]:
    features: dict[str, Feature] = getattr(config.features, side)
    columns = {}
    for name, feature in features.items():
        if isinstance(feature, Id | History) or (is_aggregate(feature) and not as_of_now):
            continue
        source = config.column_of(side, name)
        if timestamps is not None and feature.kind == "timestamp" and _is_time(config, source):
            # The event's own time, which every event carries already.
            continue
        raw_values = column(raw, str(source))
        values, is_bad = to_feature(feature, raw_values, config.columns.time_format)
        reasons.add(is_bad, BAD_FEATURE)
        if side == "context" and pa.types.is_string(values.type):
            values = dictionary(values)
        columns[FEATURE + name] = values
    return columns


def _is_time(config: Config, source: str | None) -> bool:
    return config.columns.timestamp is not None and source == config.columns.timestamp


def _timestamps(raw: pa.Array, time_format: str | None, reasons: _Reasons) -> pa.Array:
    seconds, is_bad = to_seconds(raw, time_format)
    values = pc.fill_null(seconds, 0).to_numpy()
    not_seconds = values >= FIRST_NOT_SECONDS
    if is_bad.any() and time_format is None:
        text = _decoded(to_text(raw))
        looks_so = pc.or_(
            pc.match_substring_regex(text, DATE_TEXT), pc.match_substring_regex(text, FRACTION_TEXT)
        )
        not_seconds |= is_bad & _mask(looks_so)
    reasons.add(not_seconds, TIMESTAMP_NOT_SECONDS)
    out_of_range = (values < 0) | (values >= END_OF_TIME_S)
    reasons.add(is_bad | _mask(pc.is_null(seconds)) | out_of_range, BAD_TIMESTAMP)
    return pa.array(values)


def _splits(raw: pa.Array, reasons: _Reasons) -> pa.Array:
    text = dictionary(to_text(raw))
    trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(text.dictionary))
    positions = pc.fill_null(pc.index_in(trimmed, pa.array(SPLITS)), -1).to_numpy()
    rows = positions[indices(text)].astype(np.int8)
    reasons.add(rows < 0, BAD_SPLIT)
    return pa.array(rows)


def _labels(raw: pa.Table, config: Config, reasons: _Reasons) -> dict[str, pa.Array]:
    """Labels (int8), weights (float32) and, where wanted, values (float64), windows (int64)."""
    rules, roles = config.labels, config.columns
    windows = np.zeros(raw.num_rows, np.int64)
    label, weight = np.ones(raw.num_rows, np.int8), np.ones(raw.num_rows, np.float32)
    if rules.events:
        events = dictionary(to_text(column(raw, str(roles.event))))
        known = [rules.events.get(event) for event in events.dictionary.to_pylist()]
        codes = indices(events)
        reasons.add(np.array([rule is None for rule in known], bool)[codes], UNKNOWN_EVENT)
        label = np.array([rule.label if rule else 1 for rule in known], np.int8)[codes]
        weight = np.array([rule.weight if rule else 1.0 for rule in known], np.float32)[codes]
        seconds = [rule.unless_positive_within_s if rule else None for rule in known]
        windows = np.array([second or 0 for second in seconds], np.int64)[codes]
    columns = {LABEL: pa.array(label), WEIGHT: pa.array(weight)}
    has_value_rules = bool(rules.values) or rules.positive_from is not None
    if has_value_rules or config.has_means:
        values = _values(column(raw, str(roles.value)), reasons)
        if has_value_rules:
            _apply_values(values, rules, label, weight, reasons)
            windows[~np.isnan(values)] = 0
        if config.has_means:
            # A mean is a float32.
            reasons.add(np.abs(values) > np.finfo(np.float32).max, BAD_VALUE)
            columns[VALUE] = pa.array(values, from_pandas=True)
    if rules.has_windows:
        columns[WINDOW_S] = pa.array(windows)
    return columns


def _values(raw: pa.Array, reasons: _Reasons) -> np.ndarray:
    """`[n]` float64 values, NaN where missing."""
    values, is_bad = to_floats(raw, pa.float64())
    reasons.add(is_bad, BAD_VALUE)
    return pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False)


def _apply_values(
    values: np.ndarray, rules: Labels, label: np.ndarray, weight: np.ndarray, reasons: _Reasons
) -> None:
    """Lets the values that are there decide the labels."""
    is_there = ~np.isnan(values)
    if rules.positive_from is not None:
        label[is_there] = (values >= rules.positive_from)[is_there]
        return
    is_known = ~is_there
    for value, rule in rules.values.items():
        matches = values == value
        label[matches] = rule.label
        weight[matches] *= np.float32(rule.weight)
        is_known |= matches
    reasons.add(~is_known, UNKNOWN_VALUE)


def _where_missing(ids: pa.DictionaryArray) -> np.ndarray:
    empty = _mask(pc.equal(ids.dictionary, ""))
    return empty[indices(ids)] if empty.any() else np.zeros(len(ids), bool)


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _objects(ids: pa.Array) -> Any:
    return ids.to_numpy(zero_copy_only=False)


def _mask(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)

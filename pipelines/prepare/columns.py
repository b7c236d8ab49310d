"""Columns of any file -> canonical raw values, and which values could not be read.

Files bring the same column as text, numbers or lists; after this module a role or a feature has
one form. All functions are pure and work on whole Arrow arrays.

Canonical forms: text is string with "" for missing; several tokens are one text joined by
`TOKEN_SEPARATOR`; numbers and booleans are float32 with null for missing; vectors are
fixed-size lists of float32, null for missing; integers are int64, null for missing.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.prepare.column_types import is_date, is_list
from tfrs_twotower.schema.columns import UNITS_A_SECOND
from tfrs_twotower.schema.features import (
    Boolean,
    Feature,
    MultiCategorical,
    Number,
    Timestamp,
    Vector,
)

TOKEN_SEPARATOR = "\x1f"
INTEGER = r"^-?(?:[0-9]{1,18}|[0-8][0-9]{18})(?:\.0*)?$"  # Nanoseconds have 19 digits.
FLOAT = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?$"
ISO_DATE = r"^[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}"
NOT_A_NUMBER = r"^(?i:nan|null|none)$"
TRUE, FALSE = ("1", "true", "t", "yes", "y", "1.0"), ("0", "false", "f", "no", "n", "0.0")
VECTOR_SEPARATORS = r"[\s,;|]+"


class Converted(NamedTuple):
    """A column in canonical form."""

    values: pa.Array  # [n]
    is_bad: np.ndarray  # [n] bool: neither missing nor readable; the value is missing then


def to_text(array: pa.Array) -> pa.Array:
    """Text of a column, a dictionary array where it was one; missing is ""."""
    if pa.types.is_dictionary(array.type):
        values = to_text(array.dictionary)
        if not array.null_count:
            return pa.DictionaryArray.from_arrays(array.indices, values)
        return pc.dictionary_encode(pc.fill_null(values.take(array.indices), ""))
    if pa.types.is_null(array.type):
        return pa.array([""] * len(array), pa.string())
    if is_list(array.type):
        array = _joined(array, ", ")
    elif pa.types.is_floating(array.type):
        # Integers with gaps become floats in many tools: 42.0 is the id 42.
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return pc.fill_null(pc.cast(array, pa.string()), "")


def to_attribute(array: pa.Array) -> pa.Array:
    """What is shown to people: text, or lists of text where the file has lists."""
    if not is_list(array.type):
        return _plain_text(array)
    values = to_text(array.flatten())
    return pa.ListArray.from_arrays(pc.cast(_offsets(array), pa.int32()), values)


def to_integers(array: pa.Array) -> Converted:
    """Whole numbers as int64."""
    if pa.types.is_integer(array.type):
        return Converted(pc.cast(array, pa.int64(), safe=False), _none(array))
    if pa.types.is_floating(array.type):
        array = pc.cast(array, pa.float64())  # Arrow does not round half precision.
        whole = pc.and_(pc.equal(pc.round(array), array), pc.less(pc.abs(array), 2.0**62))
        is_missing = pc.or_kleene(pc.is_null(array), pc.is_nan(array))
        is_bad = pc.and_(pc.fill_null(pc.invert(whole), False), pc.invert(is_missing))
        kept = pc.if_else(pc.fill_null(whole, False), array, pa.scalar(None, array.type))
        return Converted(pc.cast(kept, pa.int64()), _mask(is_bad))
    text = _plain_text(array)
    try:
        values = pc.cast(text, pa.int64())
        # Arrow reads hexadecimal, which no log means.
        if not _mask(pc.match_substring(text, "x", ignore_case=True)).any():
            return Converted(values, _none(values))
    except pa.ArrowInvalid:
        pass
    text = pc.utf8_trim_whitespace(text)
    readable = pc.match_substring_regex(text, INTEGER)
    digits = pc.replace_substring_regex(_only(text, readable), r"\.0*$", "")
    return Converted(pc.cast(digits, pa.int64()), _unread(text, readable))


def to_seconds(array: pa.Array, time_format: str | None = None) -> Converted:
    """Moments as whole Unix seconds: numbers, Arrow timestamps and dates, or ISO 8601 as text.

    A moment without a time zone is UTC. Fractions of seconds are cut off, downwards.

    Args:
        array: Of any type.
        time_format: See `columns.time_format` of the config; of numbers and text.
    """
    if is_date(array.type):
        return Converted(unix_seconds(array), _none(array))
    if time_format is not None and time_format not in UNITS_A_SECOND:
        return _parsed(pc.utf8_trim_whitespace(_plain_text(array)), time_format)
    seconds, is_bad = to_integers(array)
    if time_format is not None:
        # Arrow's division cuts towards 0, not down.
        whole = pc.fill_null(seconds, 0).to_numpy() // UNITS_A_SECOND[time_format]
        return Converted(pa.array(whole, mask=_mask(pc.is_null(seconds))), is_bad)
    if not is_bad.any() or _is_number(array.type):
        return Converted(seconds, is_bad)
    # Only what is no number is read as a date: 20240501 is a number of seconds.
    rest = pc.utf8_trim_whitespace(_plain_text(array).filter(pa.array(is_bad)))
    rest = _only(rest, pc.match_substring_regex(rest, ISO_DATE))
    moments = pd.to_datetime(rest.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    read = unix_seconds(pa.array(moments.dt.tz_localize(None)))
    seconds = pc.replace_with_mask(seconds, pa.array(is_bad), read)
    is_bad[is_bad] = _mask(pc.is_null(read))
    return Converted(seconds, is_bad)


def _parsed(text: pa.Array, time_format: str) -> Converted:
    # Arrow's strptime takes the 31st of February for a day of March.
    moments = pd.to_datetime(text.to_pandas(), format=time_format, utc=True, errors="coerce")
    seconds = unix_seconds(pa.array(moments.dt.tz_localize(None), from_pandas=True))
    return Converted(seconds, _mask(pc.is_null(seconds)) & _mask(pc.not_equal(text, "")))


def unix_seconds(array: pa.Array) -> pa.Array:
    """Arrow timestamps or dates as whole seconds since 1970, UTC."""
    if pa.types.is_date(array.type):
        array = pc.cast(array, pa.timestamp("s"))
    # Arrow's own cast to seconds cuts towards 1970, not down.
    whole = pc.floor_temporal(array, unit="second")
    return pc.cast(pc.cast(whole, pa.timestamp("s"), safe=False), pa.int64())


def to_floats(array: pa.Array, dtype: pa.DataType) -> Converted:
    """Numbers as float32 or float64; NaN is missing, infinity is bad."""
    if pa.types.is_dictionary(array.type):
        return _by_unique(array, to_floats(array.dictionary, dtype))
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if not _is_number(array.type):
        text = _plain_text(array)
        try:
            array, unread = pc.cast(text, pa.float64()), None
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(text)
            readable = pc.match_substring_regex(text, FLOAT)
            words = pc.match_substring_regex(text, NOT_A_NUMBER)
            unread = _unread(text, readable) & ~_mask(words)
            array = pc.cast(_only(text, readable), pa.float64())
    else:
        unread = None
    values = pc.cast(array, dtype, safe=False)
    is_infinite = _mask(pc.fill_null(pc.is_inf(values), False))
    is_missing = pc.or_(pc.fill_null(pc.is_nan(values), True), pa.array(is_infinite))
    values = pc.if_else(is_missing, pa.scalar(None, dtype), values)
    return Converted(values, is_infinite if unread is None else is_infinite | unread)


def to_booleans(array: pa.Array) -> Converted:
    """Truth values as float32: 1 or 0."""
    if pa.types.is_dictionary(array.type):
        return _by_unique(array, to_booleans(array.dictionary))
    text = pc.utf8_lower(pc.utf8_trim_whitespace(_plain_text(array)))
    is_true = pc.is_in(text, pa.array(TRUE))
    is_known = pc.or_(is_true, pc.is_in(text, pa.array(FALSE)))
    values = pc.if_else(is_known, pc.cast(is_true, pa.float32()), pa.scalar(None, pa.float32()))
    return Converted(values, _unread(text, is_known))


def to_tokens(array: pa.Array, separator: str) -> pa.Array:
    """Several tokens a row, trimmed, as one text joined by `TOKEN_SEPARATOR`."""
    if pa.types.is_dictionary(array.type):
        return to_tokens(array.dictionary, separator).take(array.indices)
    if not is_list(array.type):
        array = pc.split_pattern(to_text(array), separator)
    tokens = pc.utf8_trim_whitespace(to_text(array.flatten()))
    lists = pa.LargeListArray.from_arrays(_offsets(array), tokens)
    return pc.cast(pc.binary_join(lists, TOKEN_SEPARATOR), pa.string())


def to_vectors(array: pa.Array, dimension: int) -> Converted:
    """Dense vectors as fixed-size lists of float32; text holds numbers between separators."""
    if pa.types.is_dictionary(array.type):
        return _by_unique(array, to_vectors(array.dictionary, dimension))
    if is_list(array.type):
        lists, is_missing = array, _mask(pc.is_null(array))
    else:
        text = pc.utf8_trim(pc.utf8_trim_whitespace(_plain_text(array)), "[]()")
        text = pc.utf8_trim_whitespace(text)
        is_missing = _mask(pc.equal(text, ""))
        lists = pc.split_pattern_regex(text, VECTOR_SEPARATORS)
    offsets = _offsets(lists).to_numpy()
    numbers, is_bad_number = to_floats(lists.flatten(), pa.float32())
    is_bad_number = is_bad_number | _mask(pc.is_null(numbers))
    bad_before = np.concatenate([[0], np.cumsum(is_bad_number)])
    is_whole = (np.diff(offsets) == dimension) & (np.diff(bad_before[offsets]) == 0) & ~is_missing
    filled = np.full((len(array), dimension), np.nan, np.float32)
    starts = offsets[:-1][is_whole]
    flat = pc.fill_null(numbers, np.float32("nan")).to_numpy(zero_copy_only=False)
    filled[is_whole] = flat[starts[:, np.newaxis] + np.arange(dimension)]
    return Converted(
        pa.FixedSizeListArray.from_arrays(
            pa.array(filled.reshape(-1)), dimension, mask=pa.array(~is_whole)
        ),
        ~is_whole & ~is_missing,
    )


def to_feature(feature: Feature, array: pa.Array, time_format: str | None = None) -> Converted:
    """A feature's column in the canonical form of its kind; see `to_seconds` for the format."""
    match feature:
        case Number():
            return to_floats(array, pa.float32())
        case Boolean():
            return to_booleans(array)
        case Vector():
            return to_vectors(array, feature.dimension)
        case Timestamp():
            return to_seconds(array, time_format)
        case MultiCategorical():
            text = to_tokens(array, feature.separator)
        case _:
            text = to_text(array)
    return Converted(text, _none(text))


def canonical_type(feature: Feature) -> pa.DataType:
    """The Arrow type of `to_feature`, dictionary encoding aside."""
    if isinstance(feature, Number | Boolean):
        return pa.float32()
    if isinstance(feature, Vector):
        return pa.list_(pa.float32(), feature.dimension)
    return pa.int64() if isinstance(feature, Timestamp) else pa.string()


def _by_unique(array: pa.DictionaryArray, uniques: Converted) -> Converted:
    """What holds for the distinct values of a dictionary array, for its rows."""
    is_null = _mask(pc.is_null(array))
    indices = pc.fill_null(array.indices, 0)
    if not len(array.dictionary):
        return Converted(pa.nulls(len(array), uniques.values.type), np.zeros(len(array), bool))
    is_bad = uniques.is_bad[indices.to_numpy(zero_copy_only=False)] & ~is_null
    return Converted(uniques.values.take(array.indices), is_bad)


def _plain_text(array: pa.Array) -> pa.Array:
    text = to_text(array)
    return text.dictionary_decode() if pa.types.is_dictionary(text.type) else text


def _joined(array: pa.Array, separator: str) -> pa.Array:
    """Lists as text."""
    lists = pa.LargeListArray.from_arrays(_offsets(array), to_text(array.flatten()))
    return pc.cast(pc.binary_join(lists, separator), pa.string())


def _offsets(array: pa.Array) -> pa.Int64Array:
    """Where each list begins in `array.flatten()`; a null list is an empty one."""
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    ends = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
    return pa.array(np.concatenate([np.zeros(1, np.int64), ends]))


def _only(values: pa.Array, keep: pa.BooleanArray) -> pa.Array:
    return pc.if_else(keep, values, pa.scalar(None, values.type))


def _unread(text: pa.Array, readable: pa.BooleanArray) -> np.ndarray:
    return ~_mask(readable) & ~_mask(pc.equal(text, ""))


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_integer(dtype) or pa.types.is_floating(dtype)


def _mask(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)


def _none(array: pa.Array) -> np.ndarray:
    return np.zeros(len(array), bool)

"""Which Arrow types a column of Parquet or of a frame may have, by what the config reads it as."""

from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
from pyarrow import types

from tfrs_twotower.schema.features import Boolean, Feature, Number, Timestamp, Vector


class Form(NamedTuple):
    """What a column is read as.

    Attributes:
        expected: The types that it may have, for people.
        takes: Whether a type is one of them; of a dictionary it is asked for the values.
    """

    expected: str
    takes: Callable[[pa.DataType], bool]


def _is_text(dtype: pa.DataType) -> bool:
    """Bytes are text in files whose writer knew no text; see `parsing`."""
    return (
        types.is_string(dtype)
        or types.is_large_string(dtype)
        or types.is_string_view(dtype)
        or is_bytes(dtype)
    )


def is_bytes(dtype: pa.DataType) -> bool:
    """Whether a type holds bytes of which is not known that they are text."""
    return (
        types.is_binary(dtype)
        or types.is_large_binary(dtype)
        or types.is_fixed_size_binary(dtype)
        or types.is_binary_view(dtype)
    )


def is_list(dtype: pa.DataType) -> bool:
    """Whether a type is a list that `columns` reads."""
    return types.is_list(dtype) or types.is_large_list(dtype) or types.is_fixed_size_list(dtype)


def is_date(dtype: pa.DataType) -> bool:
    """Whether a type is a moment."""
    return types.is_timestamp(dtype) or types.is_date(dtype)


def _is_number(dtype: pa.DataType) -> bool:
    return types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)


def _is_number_or_text(dtype: pa.DataType) -> bool:
    return _is_number(dtype) or _is_text(dtype)


def _has_number(dtype: pa.DataType) -> bool:
    return _is_number_or_text(dtype) or types.is_boolean(dtype)


def _has_text(dtype: pa.DataType) -> bool:
    if is_list(dtype):
        return holds(TEXT, dtype.value_type)
    is_time = is_date(dtype) or types.is_time(dtype) or types.is_duration(dtype)
    return _has_number(dtype) or is_time


TEXT = Form("text, numbers, booleans, dates or lists of them", _has_text)
NUMBER = Form("numbers, booleans or text", _has_number)
INTEGER = Form("whole numbers or text", _is_number_or_text)
MOMENT = Form(
    "timestamps, dates, whole numbers or text",
    lambda dtype: _is_number_or_text(dtype) or is_date(dtype),
)
BOOLEAN = Form("booleans, numbers or text", _has_number)
VECTOR = Form(
    "lists of numbers or text",
    lambda dtype: _is_text(dtype) or (is_list(dtype) and holds(NUMBER, dtype.value_type)),
)

FORM_OF_ROLE = {
    "timestamp": MOMENT,
    "available_from": MOMENT,
    "order": INTEGER,
    "value": NUMBER,
}
"""Roles of `columns` in the config that are no text."""


def form_of(feature: Feature) -> Form:
    """What a feature's column is read as."""
    match feature:
        case Number():
            return NUMBER
        case Boolean():
            return BOOLEAN
        case Vector():
            return VECTOR
        case Timestamp():
            return MOMENT
        case _:
            return TEXT


def holds(form: Form, dtype: pa.DataType) -> bool:
    """Whether columns of a type can be read in a form. A column of nulls can, in any."""
    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    return types.is_null(dtype) or form.takes(dtype)

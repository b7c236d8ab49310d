"""What a column holds, guessed from its values and its name."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from tfrs_twotower.schema.columns import UNITS_A_SECOND

# A few malformed values must not change what a column is.
MOSTLY = 0.95
TRUTH_VALUES = frozenset(("1", "true", "t", "yes", "y", "0", "false", "f", "no", "n"))
MAX_CATEGORIES = 1000
SEPARATORS = "|;,"
FIRST_S, LAST_S = 315_532_800, 4_102_444_800  # 1980 to 2100

Kind = Literal[
    "number", "boolean", "categorical", "multi_categorical", "text", "vector", "moment", "unclear"
]
# What a moment may be written in: seconds, text (ISO 8601), or a `columns.time_format`.
DIVISORS = {"seconds": 1, **UNITS_A_SECOND}
DATE_LIKE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b"
# The first that all values fit; where day and month cannot be told apart, the day comes first.
DATE_FORMATS = tuple(
    date + time
    for date in ("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y")
    for time in ("", " %H:%M", " %H:%M:%S")
)
MONTH = r"(?i)\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b"
NAMED_DATE_FORMATS = tuple(
    date + time
    for date in ("%b %d %Y", "%b %d, %Y", "%d %b %Y", "%d-%b-%Y", "%B %d, %Y", "%d %B %Y")
    for time in ("", " %H:%M", " %H:%M:%S")
)


@dataclass(frozen=True)
class Content:
    """What a column holds.

    `unit`: of a moment. `separator`: of a multi_categorical written as text. `dimension`: of a
    vector. `num_distinct`: different values among the rows read. `is_skewed`: a number with a long
    tail. `is_whole_number`: integers only.
    """

    kind: Kind
    num_distinct: int
    unit: str | None = None
    separator: str | None = None
    dimension: int | None = None
    is_skewed: bool = False
    is_whole_number: bool = False


def look_at(values: pd.Series, time_format: str | None = None) -> Content:
    """What a column holds, by its values; missing ones do not count.

    Args:
        values: Of the column.
        time_format: How times are written, where it is known.
    """
    present = values.dropna()
    if len(present) and isinstance(present.iloc[0], list | np.ndarray):
        return _look_at_lists(present)
    text = present.astype(str).str.strip()
    text = text[text != ""]
    distinct = text.unique()
    count = len(distinct)
    if not count:
        return Content("unclear", 0)
    if time_format is not None and to_seconds(values, time_format).notna().sum() >= MOSTLY * len(
        text
    ):
        return Content("moment", count, unit=time_format)
    if vector := _vector_in_text(text):
        return Content("vector", count, dimension=vector)
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    is_code = text.str.match(r"0\d").mean() > 1 - MOSTLY  # Leading zeros: a code, not a number.
    if numbers.notna().mean() >= MOSTLY and not is_code:
        return _look_at_numbers(numbers.dropna(), count)
    if set(map(str.lower, distinct)) <= TRUTH_VALUES:
        return Content("boolean", count)
    for unit in ("text", *_date_formats(text)):
        if to_seconds(values, unit).notna().sum() >= MOSTLY * len(text):
            return Content("moment", count, unit=unit)
    return _look_at_words(text, count)


def looks_like_dates(text: pd.Series) -> bool:
    """Whether texts are dates to a reader, in a known format or not."""
    has_month = text.str.contains(MONTH, regex=True) & text.str.contains(r"\d", regex=True)
    return bool((text.str.match(rf"\s*{DATE_LIKE}") | has_month).mean() >= MOSTLY)


def _date_formats(text: pd.Series) -> tuple[str, ...]:
    if text.str.match(DATE_LIKE).mean() >= MOSTLY:
        return DATE_FORMATS
    return NAMED_DATE_FORMATS if looks_like_dates(text) else ()


def to_seconds(values: pd.Series, unit: str) -> pd.Series:
    """Moments as Unix seconds in float64, NaN where there is no plausible one."""
    if unit not in DIVISORS:
        written = "ISO8601" if unit == "text" else unit
        moments = pd.to_datetime(values.astype(str), errors="coerce", utc=True, format=written)
        return (moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    seconds = pd.to_numeric(values, errors="coerce").astype("float64") / DIVISORS[unit]
    return seconds.where(seconds.between(FIRST_S, LAST_S))


def _look_at_lists(lists: pd.Series) -> Content:
    first = lists.iloc[0]
    lengths = lists.map(len)
    if len(first) and isinstance(first[0], dict):
        return Content("unclear", len(lists))
    if len(first) and not isinstance(first[0], str):
        if (lengths == lengths.mode()[0]).mean() >= MOSTLY:
            return Content("vector", len(lists), dimension=int(lengths.mode()[0]))
        return Content("unclear", len(lists))
    return Content("multi_categorical", lists.explode().nunique())


def _vector_in_text(text: pd.Series) -> int | None:
    """The dimension of numbers between brackets, or None."""
    if not text.str.match(r"[\[(].*[\])]$").all():
        return None
    parts = text.str.strip("[]() ").str.split(r"[\s,;|]+")
    lengths = parts.map(len)
    is_numeric = pd.to_numeric(parts.head(100).explode(), errors="coerce").notna().all()
    return int(lengths.iloc[0]) if is_numeric and lengths.nunique() == 1 else None


def _look_at_numbers(numbers: pd.Series, num_distinct: int) -> Content:
    if set(numbers.unique()) == {0.0, 1.0}:
        return Content("boolean", num_distinct, is_whole_number=True)
    is_whole = bool((numbers == numbers.round()).all())
    for unit, divisor in DIVISORS.items():
        if is_whole and (numbers / divisor).between(FIRST_S, LAST_S).mean() >= MOSTLY:
            return Content("moment", num_distinct, unit=unit)
    low, middle, high = numbers.quantile([0.0, 0.5, 0.99])
    is_skewed = bool(low >= 0 and high > 10 * max(middle, 1e-9))
    return Content("number", num_distinct, is_skewed=is_skewed, is_whole_number=is_whole)


def _look_at_words(text: pd.Series, num_distinct: int) -> Content:
    for separator in SEPARATORS:
        if text.str.contains(separator, regex=False).mean() < 0.1:
            continue
        tokens = text.str.split(separator, regex=False).explode().str.strip()
        num_tokens = tokens.nunique()
        is_short = tokens.str.count(" ").mean() < 2
        if is_short and num_tokens <= min(MAX_CATEGORIES, len(tokens) / 4):
            return Content("multi_categorical", num_tokens, separator=separator)
    if num_distinct <= min(MAX_CATEGORIES, max(len(text) / 4, 2)):
        return Content("categorical", num_distinct)
    if text.str.count(" ").mean() >= 1:
        return Content("text", num_distinct)
    return Content("unclear", num_distinct)

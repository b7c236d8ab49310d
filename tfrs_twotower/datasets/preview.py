"""What the labels and the split of a config make of the rows of a log."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tfrs_twotower.datasets.guessing import to_seconds
from tfrs_twotower.schema import SPLITS, Config
from tfrs_twotower.schema.labels import Label

FEW_ROWS = 10  # A share of fewer means nothing.


@dataclass(frozen=True)
class LabelPreview:
    """What the labels of the drafted config make of the rows with one event type or value."""

    column: str | None  # None: no rule, all rows.
    value: str
    rows: int
    label: int | None  # 1 = positive, 0 = explicit negative, None = rejected.
    weight: float


@dataclass(frozen=True)
class SplitPreview:
    """One part of the drafted split, over the rows read."""

    split: str
    rows: int
    first_s: int | None  # Unix seconds; None in data without times.
    last_s: int | None


def preview_labels(rows: pd.DataFrame, config: Config) -> list[LabelPreview]:
    """What the label rules of a config make of rows, by event type and by value."""
    labels, columns = config.labels, config.columns
    previews = []
    if labels.events:
        for event, count in rows[columns.event].fillna("").astype(str).value_counts().items():
            rule = labels.events.get(str(event))
            previews.append(_label_preview(columns.event, str(event), count, rule))
    if columns.value:
        values = pd.to_numeric(rows[columns.value], errors="coerce").astype("float64")
        without = None if labels.values else Label()
        for value, count in values.value_counts().sort_index().items():
            rule = labels.values.get(float(str(value)), without)
            previews.append(_label_preview(columns.value, f"{value:g}", count, rule))
    return previews or [_label_preview(None, "every row", len(rows), Label())]


def preview_split(rows: pd.DataFrame, config: Config, unit: str | None) -> list[SplitPreview]:
    """How the split of a config cuts rows; `unit` is what the timestamp column holds, if any."""
    rows, seconds = _timed(rows, config, unit)
    part = _parts(rows, seconds, config)
    return [
        SplitPreview(
            split,
            rows=int((part == split).sum()),
            first_s=_whole(seconds[part == split].min()),
            last_s=_whole(seconds[part == split].max()),
        )
        for split in SPLITS
    ]


def share_not_in_train(rows: pd.DataFrame, config: Config, unit: str | None) -> float:
    """The share of rows after train whose candidate occurs in no row of train; of few rows 0."""
    rows, seconds = _timed(rows, config, unit)
    part = _parts(rows, seconds, config)
    candidates, is_train = rows[config.columns.candidate_id].astype(str), part == SPLITS[0]
    is_new = ~candidates[~is_train].isin(candidates[is_train])
    return float(is_new.mean()) if len(is_new) >= FEW_ROWS else 0.0


def _timed(rows: pd.DataFrame, config: Config, unit: str | None) -> tuple[pd.DataFrame, pd.Series]:
    """The rows whose time can be read, and their times in Unix seconds; without times all, NaN."""
    if not (config.columns.timestamp and unit):
        return rows, pd.Series(np.nan, rows.index)
    seconds = to_seconds(rows[config.columns.timestamp], unit)
    return rows[seconds.notna()], seconds[seconds.notna()]


def _label_preview(column: str | None, value: str, rows: int, rule: Label | None) -> LabelPreview:
    return LabelPreview(
        column, value, rows, rule.label if rule else None, rule.weight if rule else 0.0
    )


def _parts(rows: pd.DataFrame, seconds: pd.Series, config: Config) -> pd.Series:
    """The part of the split that each row falls into."""
    split, columns = config.split, config.columns
    train, validation, test = SPLITS
    shares = [1.0 - split.validation - split.test, 1.0 - split.test]
    part = pd.Series(train, rows.index)
    if split.by == "column":
        part = rows[columns.split].astype(str)
        # `twotower prepare` holds out by hash; the size is the same.
        held_out = part[part == train].iloc[: int(split.hold_out * (part == train).sum())]
        part[held_out.index] = validation
    elif split.by == "leave_last_out":
        by_query = rows.sort_values(str(columns.order)).groupby(columns.query_id)
        from_end, size = (
            by_query.cumcount(ascending=False),
            by_query[columns.query_id].transform("size"),
        )
        part[from_end[(from_end == 1) & (size >= 3)].index] = validation
        part[from_end[(from_end == 0) & (size >= 3)].index] = test
    elif split.by == "time":
        starts = seconds.sort_values().iloc[[int(share * len(seconds)) for share in shares]]
        part[seconds >= starts.iloc[0]] = validation
        part[seconds >= starts.iloc[1]] = test
    else:
        first, second = (int(share * len(rows)) for share in shares)
        part.iloc[first:second], part.iloc[second:] = validation, test
    return part


def _whole(second: float) -> int | None:
    return None if np.isnan(second) else int(second)

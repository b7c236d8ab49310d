"""The figures of the report, drawn with Bokeh; they fill the width they get."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DataRange1d,
    FactorRange,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.annotations import Whisker
from bokeh.palettes import Category10, Colorblind
from bokeh.plotting import figure

HEIGHT = 320
ROW_HEIGHT = 26
MODEL_COLOUR = Colorblind[8][0]
PLAIN_COLOUR = "#b0b7c3"
SYSTEM_COLOURS = (*Colorblind[8][:4], *Colorblind[8][5:])
CONSUMED, CONSUMED_COLOUR = "consumed", "#333333"
OTHERS = "(others)"
MAX_GROUPS = 9
MAX_VALUES = 40  # Of an attribute that colours the map.


def training_curves(epochs: Sequence[Mapping[str, float]], best_epoch: int) -> dict[str, figure]:
    """One figure for the loss and one for each validation metric, by epoch, counted from 1."""
    numbers = [1 + int(epoch["epoch"]) for epoch in epochs]
    names = [name for name in epochs[0] if name == "loss" or name.startswith("val_")]
    drawn = {}
    for name in names:
        values = [epoch[name] for epoch in epochs]
        drawing = _figure("epoch", heading(name), height=260)
        source = ColumnDataSource({"epoch": numbers, "value": values})
        drawing.line("epoch", "value", source=source, line_width=2, color=MODEL_COLOUR)
        points = drawing.scatter("epoch", "value", source=source, size=7, color=MODEL_COLOUR)
        drawing.vspan(x=[1 + best_epoch], line_dash="dashed", line_color="#555555")
        _hover(drawing, [("epoch", "@epoch"), (heading(name), "@value{0.0000}")], points)
        drawn[name] = drawing
    return drawn


def systems(
    metric: str, values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
) -> figure:
    """A metric of the model and each baseline, with 95 % intervals."""
    return _with_intervals(metric, list(values), list(values.values()), intervals, "model")


def slices(
    metric: str, values: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
) -> figure:
    """A metric of the model over slices of the evaluation, with 95 % intervals."""
    return _with_intervals(metric, list(values), list(values.values()), intervals, "all")


def _with_intervals(
    metric: str,
    names: list[str],
    values: list[float],
    intervals: Mapping[str, Sequence[float]],
    highlighted: str,
) -> figure:
    colours = [MODEL_COLOUR if name == highlighted else PLAIN_COLOUR for name in names]
    bounds = [
        intervals.get(name) or (value, value) for name, value in zip(names, values, strict=True)
    ]
    drawing = _figure(
        heading(metric),
        "",
        height=80 + ROW_HEIGHT * len(names),
        x_range=Range1d(start=0, end=1.03 * max(high for _, high in bounds) or 1),
        y_range=FactorRange(factors=names[::-1]),
    )
    source = ColumnDataSource(
        {
            "name": names,
            "value": values,
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
            "colour": colours,
        }
    )
    bars = drawing.hbar(y="name", right="value", height=0.65, color="colour", source=source)
    whiskers = Whisker(
        base="name",
        lower="low",
        upper="high",
        dimension="width",
        source=source,
        line_color="#333333",
    )
    whiskers.level = "overlay"
    drawing.add_layout(whiskers)
    drawing.ygrid.visible = False
    _hover(
        drawing,
        [
            ("", "@name"),
            (heading(metric), "@value{0.0000}"),
            ("95 %", "@low{0.0000} - @high{0.0000}"),
        ],
        bars,
    )
    return drawing


def recall_curve(ks: Sequence[int], recalls: Mapping[str, Sequence[float]]) -> figure:
    """recall@k by k, one line a system."""
    drawing = _figure("k", "recall@k", height=380, x_axis_type="log", y_range=DataRange1d(start=0))
    for place, (name, values) in enumerate(recalls.items()):
        colour = SYSTEM_COLOURS[place % len(SYSTEM_COLOURS)]
        source = ColumnDataSource({"k": list(ks), "value": list(values), "name": [name] * len(ks)})
        width = 3 if name == "model" else 1.5
        drawing.line("k", "value", source=source, color=colour, line_width=width, legend_label=name)
        points = drawing.scatter("k", "value", source=source, color=colour, size=5)
        _hover(drawing, [("", "@name"), ("k", "@k"), ("recall", "@value{0.0000}")], points)
    drawing.xaxis.formatter = NumeralTickFormatter(format="0,0")
    drawing.legend.location = "top_left"
    drawing.legend.label_text_font_size = "9pt"
    drawing.legend.background_fill_alpha = 0.6
    return drawing


def recall_by_step(
    k: int, first_days: Sequence[str], recalls: Mapping[str, Sequence[float]]
) -> figure:
    """recall@k by step of a replay, one line a policy."""
    days = FactorRange(factors=list(first_days))
    drawing = _figure("first day", f"recall@{k}", height=380, x_axis_type="auto", x_range=days)
    for place, (name, values) in enumerate(recalls.items()):
        colour = SYSTEM_COLOURS[place % len(SYSTEM_COLOURS)]
        source = ColumnDataSource(
            {"day": list(first_days), "value": list(values), "name": [name] * len(values)}
        )
        drawing.line("day", "value", source=source, color=colour, line_width=2, legend_label=name)
        points = drawing.scatter("day", "value", source=source, color=colour, size=6)
        _hover(drawing, [("", "@name"), ("from", "@day"), ("recall", "@value{0.0000}")], points)
    drawing.xaxis.major_label_orientation = 1.0
    drawing.add_layout(drawing.legend[0], "below")
    drawing.legend.ncols = 3
    drawing.legend.click_policy = "hide"
    return drawing


def popularity(shares: Mapping[str, Sequence[float]]) -> figure:
    """Shares of relevant and listed candidates by tenth of the corpus, ordered by popularity."""
    drawing = _figure("popularity, most popular tenth first", "share", y_range=DataRange1d(start=0))
    bins = np.arange(1, 1 + len(next(iter(shares.values()))))
    systems = [name for name in shares if name != CONSUMED]
    colours = {CONSUMED: CONSUMED_COLOUR, **dict(zip(systems, SYSTEM_COLOURS, strict=False))}
    for name, values in shares.items():
        colour = colours.get(name, PLAIN_COLOUR)
        source = ColumnDataSource({"bin": bins, "share": list(values), "name": [name] * len(bins)})
        dash = "dashed" if name == CONSUMED else "solid"
        drawing.line(
            "bin",
            "share",
            source=source,
            color=colour,
            line_width=2,
            line_dash=dash,
            legend_label=name,
        )
        points = drawing.scatter("bin", "share", source=source, color=colour, size=6)
        _hover(drawing, [("", "@name"), ("tenth", "@bin"), ("share", "@share{0.0 %}")], points)
    drawing.yaxis.formatter = NumeralTickFormatter(format="0 %")
    drawing.legend.label_text_font_size = "9pt"
    return drawing


def sensitivity(features: Sequence[Mapping[str, Any]]) -> figure:
    """The share of a list that changes when the values of one feature are shuffled."""
    names = [
        f"{feature['feature']} (context)" if feature["is_context"] else feature["feature"]
        for feature in features
    ]
    drawing = _figure(
        "share of the list that changes",
        "",
        height=80 + ROW_HEIGHT * len(names),
        x_range=Range1d(start=0, end=1),
        y_range=FactorRange(factors=names[::-1]),
    )
    source = ColumnDataSource(
        {
            "name": names,
            "changed": [1.0 - feature["overlap_at_10"] for feature in features],
            "recall": [feature["recall_at_10"] for feature in features],
            "before": [feature["recall_at_10_unchanged"] for feature in features],
        }
    )
    bars = drawing.hbar(y="name", right="changed", height=0.65, color=MODEL_COLOUR, source=source)
    drawing.xaxis.formatter = NumeralTickFormatter(format="0 %")
    drawing.ygrid.visible = False
    changed = "@before{0.0000} -> @recall{0.0000}"
    _hover(drawing, [("", "@name"), ("changes", "@changed{0 %}"), ("recall@10", changed)], bars)
    return drawing


def index_trials(tuning: Mapping[str, Any]) -> figure:
    """Recall against latency of the index settings that were tried."""
    drawing = _figure("median latency of a query, ms", f"recall@{tuning['at']} of exact search")
    tried = drawing.scatter(
        "latency_ms",
        "recall",
        source=_columns(tuning["trials"]),
        size=8,
        color=PLAIN_COLOUR,
        legend_label="tried",
    )
    drawing.scatter(
        "latency_ms",
        "recall",
        source=_columns([tuning["chosen"]]),
        size=13,
        color=MODEL_COLOUR,
        legend_label="chosen",
    )
    drawing.hspan(y=[tuning["target_recall"]], line_dash="dashed", line_color="#555555")
    drawing.legend.location = "bottom_right"
    shown = [("leaves searched", "@leaves_to_search of @num_leaves"), ("rescored", "@reorder")]
    _hover(drawing, [("recall", "@recall{0.0000}"), ("ms", "@latency_ms{0.00}"), *shown], tried)
    return drawing


def _columns(rows: Sequence[Mapping[str, Any]]) -> ColumnDataSource:
    return ColumnDataSource({str(name): [row[name] for row in rows] for name in rows[0]})


def groupings(attributes: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """The attributes by which a map can be coloured: those of text with a few values.

    Args:
        attributes: A row a candidate.

    Yields:
        The name, and a value a candidate; of a list the first, "" where it has none.
    """
    for name in attributes:
        values = attributes[name].map(_first)
        if values.map(type).isin([str]).any() and 1 < values.nunique() <= MAX_VALUES:
            yield str(name), values.fillna("").astype(str).tolist()


def _first(value: object) -> object:
    if isinstance(value, list | np.ndarray):
        return value[0] if len(value) else None
    return value


def embedding_map(
    embeddings: npt.NDArray[np.float32], names: Sequence[str], groups: Sequence[str]
) -> tuple[figure, float]:
    """Candidates in the plane of their two principal components, coloured by group.

    Args:
        embeddings: `[num_candidates, embedding_dim]`.
        names: What hovering shows.
        groups: A value a candidate; all but the most frequent ones are drawn as others.

    Returns:
        The figure, and the share of the variance that the plane keeps.
    """
    centred = embeddings - embeddings.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    plane = centred @ directions[:2].T
    plane = np.pad(plane, [(0, 0), (0, 2 - plane.shape[1])])
    variances = lengths**2
    kept = float(variances[:2].sum() / max(variances.sum(), 1e-30))
    values, counts = np.unique(np.array(groups, object).astype(str), return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")][:MAX_GROUPS].tolist()
    drawing = _figure("", "", height=620, tools="box_zoom,reset,save", toolbar_location="right")
    shown = [*frequent, *([OTHERS] if len(values) > len(frequent) else [])]
    points = []
    for colour, group in zip((*Category10[10][:MAX_GROUPS], PLAIN_COLOUR), shown, strict=False):
        belongs = [
            place
            for place, value in enumerate(groups)
            if str(value) == group or (group == OTHERS and str(value) not in frequent)
        ]
        source = ColumnDataSource(
            {
                "x": plane[belongs, 0],
                "y": plane[belongs, 1],
                "name": [names[place] for place in belongs],
                "group": [str(groups[place]) for place in belongs],
                "place": belongs,
            }
        )
        label = {} if len(shown) == 1 else {"legend_label": group}
        points.append(
            drawing.scatter("x", "y", source=source, size=5, color=colour, alpha=0.65, **label)
        )
    _hover(drawing, [("", "@name"), ("", "@group")], *points)
    drawing.axis.visible = False
    drawing.grid.visible = False
    if len(shown) > 1:
        # Below: over the plane it would hide candidates.
        drawing.add_layout(drawing.legend[0], "below")
        drawing.legend.ncols = 2
        drawing.legend.click_policy = "hide"
        drawing.legend.label_text_font_size = "9pt"
        drawing.legend.background_fill_alpha = 0.7
    return drawing, kept


def heading(metric: str) -> str:
    """A metric's name for people."""
    words = metric.removeprefix("val_").replace("_at_", "@").replace("_", " ")
    return f"validation {words}" if metric.startswith("val_") else words


def _figure(
    x_label: str,
    y_label: str,
    *,
    height: int = HEIGHT,
    tools: str = "",
    toolbar_location: Literal["right"] | None = None,
    **options: Any,
) -> figure:
    # No dragging unless asked for: a finger on a phone scrolls the page.
    drawing = figure(
        height=height,
        sizing_mode="stretch_width",
        tools=tools,
        active_drag=None,
        toolbar_location=toolbar_location,
        x_axis_label=x_label,
        y_axis_label=y_label,
        **options,
    )
    drawing.outline_line_color = None
    drawing.axis.axis_label_text_font_style = "normal"
    drawing.axis.minor_tick_line_color = None
    if "x_axis_type" not in options:
        drawing.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    drawing.toolbar.logo = None
    return drawing


def _hover(drawing: figure, tooltips: list[tuple[str, str]], *renderers: Any) -> None:
    drawing.add_tools(HoverTool(tooltips=tooltips, renderers=list(renderers)))

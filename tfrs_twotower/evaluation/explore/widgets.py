"""The page's widgets: rows to choose from, a search, what can be turned."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import panel as pn
import param
from panel.custom import JSComponent

from tfrs_twotower.evaluation.explore import styles
from tfrs_twotower.evaluation.explore.controls import WEEKDAYS, Control, unix_seconds
from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion
from tfrs_twotower.evaluation.explore.rows import candidate_row
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.features import Timestamp

# A select of Panel has no option for None.
ANY, NOT_GIVEN = "any", ""
SHOWN_MATCHES = 6
WIDE: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (4, 0)}


class View:
    """A part of the page that is shown by itself.

    Attributes:
        body: What is shown.
    """

    body: pn.Column

    def refresh(self) -> None:
        """Brings it up to date; called whenever it is shown."""


class Rows(JSComponent):
    """A list of rows; each is a button, so that the keyboard reaches it.

    A row is a mapping: `key`, `title`, and where it has them `rank`, `detail`, `why`, `adds`,
    `value`, `share` (0 to 1, a bar), `badge` with its `tone`, `removable`.
    """

    rows = param.List(default=[])
    label = param.String(default="")
    empty = param.String(default="")

    _esm = Path(__file__).with_name("rows.js")
    _stylesheets = [Path(__file__).with_name("rows.css").read_text(encoding="utf-8")]

    def __init__(
        self,
        label: str,
        on_open: Callable[[str], None],
        *,
        on_remove: Callable[[str], None] | None = None,
        empty: str = "",
    ) -> None:
        """An empty list.

        Args:
            label: For screen readers.
            on_open: Called with the key of a row that was chosen.
            on_remove: With that of a row to remove.
            empty: Stands in place of no rows.
        """
        super().__init__(label=label, empty=empty, sizing_mode="stretch_width")
        self._actions = {"open": on_open, "remove": on_remove}

    def _handle_msg(self, data: Any) -> None:
        """Takes no key but that of a row that it shows."""
        if not isinstance(data, Mapping):
            return
        action, key = self._actions.get(str(data.get("action"))), data.get("key")
        if action and any(row["key"] == key for row in self.rows):
            action(str(key))


class Search(pn.Column):
    """A text field with the rows that match what is typed, while it is typed."""

    def __init__(
        self,
        label: str,
        placeholder: str,
        find: Callable[[str], Sequence[Mapping[str, Any]]],
        on_open: Callable[[str], None],
    ) -> None:
        """An empty field.

        Args:
            label: Above it.
            placeholder: In it.
            find: The rows of what is typed.
            on_open: Called with the key of the row that was chosen.
        """
        self.field = pn.widgets.TextInput(label=label, placeholder=placeholder, **WIDE)
        self._find = find
        self._on_open = on_open
        self.matches = Rows(f"{label}: matches", self._open, empty="Nothing matches.")
        self.matches.visible = False
        self.field.param.watch(self._search, "value_input")
        super().__init__(self.field, self.matches, sizing_mode="stretch_width", margin=0)

    def _search(self, event: Any) -> None:
        typed = event.new.strip()
        self.matches.rows = list(self._find(typed)) if typed else []
        self.matches.visible = bool(typed)

    def _open(self, key: str) -> None:
        self.field.value = self.field.value_input = ""
        self.matches.rows, self.matches.visible = [], False
        self._on_open(key)


def candidate_search(
    label: str, version: ExploredVersion, on_open: Callable[[str], None]
) -> Search:
    """A search for candidates by title or id."""

    def find(typed: str) -> list[dict[str, Any]]:
        rows = version.candidate_search.find(typed, SHOWN_MATCHES)
        return [candidate_row(version, row) for row in rows]

    return Search(label, "words of a title, or an id", find, on_open)


def text(markup: str = "") -> pn.pane.HTML:
    """Headings and paragraphs; what comes from data is escaped by whoever writes it."""
    return pn.pane.HTML(markup, stylesheets=[styles.TEXT], **WIDE)


def error_text(error: UserError) -> str:
    """Markup of what went wrong."""
    return f'<p class="error">{html.escape(str(error))}</p>'


def card(*parts: Any, area: str = "") -> pn.Column:
    """A white box; `area` names its place in a grid."""
    return pn.Column(
        *parts,
        css_classes=[area] if area else [],
        stylesheets=[styles.CARD],
        sizing_mode="stretch_width",
    )


@dataclass(frozen=True)
class Turned:
    """A control with its widgets.

    Attributes:
        control: What is turned.
        widgets: What turns it.
        read: Its value now.
        write: Sets it without an answer to the change.
    """

    control: Control
    widgets: list[Any]
    read: Callable[[], Any]
    write: Callable[[Any], None]


def turned(control: Control, on_change: Callable[[], None]) -> Turned:
    """The widgets of a control.

    Args:
        control: What is turned.
        on_change: Called after a person changed it; sliders tell when they are let go.
    """
    if control.kind == "moment":
        return _moment(control, on_change)
    widget, watched = _widget(control)
    quiet = _Quiet()
    widget.param.watch(lambda _: quiet.call(on_change), watched)

    def read() -> Any:
        return None if widget.value == NOT_GIVEN else widget.value

    def write(value: Any) -> None:
        match control.kind:
            case "some":
                value = [one for one in value or () if one in control.options]
            case "one":
                value = value if value in control.options else NOT_GIVEN
            case "text":
                value = value or NOT_GIVEN
        with quiet:
            widget.value = value

    return Turned(control, [widget], read, write)


class _Quiet:
    """Changes within it call nothing."""

    def __init__(self) -> None:
        self._is_on = False

    def __enter__(self) -> None:
        self._is_on = True

    def __exit__(self, *_: object) -> None:
        self._is_on = False

    def call(self, function: Callable[[], None]) -> None:
        if not self._is_on:
            function()


def _widget(control: Control) -> tuple[Any, str]:
    """A widget and the parameter of it that a person changes."""
    wide: dict[str, Any] = {"label": control.label, **WIDE}
    match control.kind:
        case "one":
            options = {ANY: NOT_GIVEN, **{_shown(one): one for one in control.options}}
            return pn.widgets.Select(options=options, value=NOT_GIVEN, **wide), "value"
        case "some":
            options_of_many = list(control.options)
            return pn.widgets.MultiChoice(options=options_of_many, value=[], **wide), "value"
        case "number":
            return pn.widgets.FloatInput(value=control.neutral, **wide), "value"
        case "range":
            bounds = {"start": control.low, "end": control.high, "value": control.neutral}
            step = (control.high - control.low) / 100
            return pn.widgets.RangeSlider(step=step, **bounds, **wide), "value_throttled"
        case "slider":
            bounds = {"start": control.low, "end": control.high, "value": control.neutral}
            return pn.widgets.FloatSlider(step=0.05, **bounds, **wide), "value_throttled"
        case "steps":
            steps = {"off" if not one else f"{one}": one for one in control.options}
            slider = pn.widgets.DiscreteSlider(options=steps, value=control.neutral, **wide)
            return slider, "value_throttled"
        case _:
            return pn.widgets.TextInput(value=control.neutral or "", **wide), "value"


def _moment(control: Control, on_change: Callable[[], None]) -> Turned:
    feature = control.feature
    assert isinstance(feature, Timestamp)
    hours: dict[str, int | str] = {f"{hour:02d}:00": hour for hour in range(24)}
    days: dict[str, int | str] = {name: day for day, name in enumerate(WEEKDAYS)}
    hour = pn.widgets.DiscreteSlider(
        label=f"{control.label}: hour", options={ANY: NOT_GIVEN, **hours}, value=NOT_GIVEN, **WIDE
    )
    weekday = pn.widgets.Select(
        label=f"{control.label}: weekday", options={ANY: NOT_GIVEN, **days}, value=NOT_GIVEN, **WIDE
    )
    quiet = _Quiet()
    shown = [
        (hour, "value_throttled") if part == "hour" else (weekday, "value")
        for part in feature.parts
    ]
    for widget, watched in shown:
        widget.param.watch(lambda _: quiet.call(on_change), watched)

    def write(_: Any) -> None:
        with quiet:
            hour.value = weekday.value = NOT_GIVEN

    return Turned(
        control,
        [widget for widget, _ in shown],
        lambda: unix_seconds(
            feature, *(None if one.value == NOT_GIVEN else one.value for one in (hour, weekday))
        ),
        write,
    )


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else value

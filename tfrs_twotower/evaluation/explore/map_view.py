"""The embeddings in a plane, coloured by an attribute; search and click."""

from typing import Any

import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from tfrs_twotower.evaluation.explore import styles
from tfrs_twotower.evaluation.explore.rows import candidate_row
from tfrs_twotower.evaluation.explore.session import Session
from tfrs_twotower.evaluation.explore.widgets import WIDE, Rows, View, candidate_search, card, text
from tfrs_twotower.evaluation.insights import evenly_spaced
from tfrs_twotower.evaluation.report import figures

MAX_MAPPED = 5000
PLAIN = "nothing"
MARK_COLOUR = "#d55e00"


class MapView(View):
    """The view of all candidates, or of a sample evenly spaced by popularity."""

    def __init__(self, session: Session) -> None:
        """Makes the widgets and draws the map."""
        self._session = session
        version = session.version
        self._rows = version.by_popularity[evenly_spaced(len(version.candidates), MAX_MAPPED)]
        attributes = version.candidates.drop(columns=["candidate_id", "title"], errors="ignore")
        self._groups = {
            **dict(figures.groupings(attributes.iloc[self._rows])),
            PLAIN: [""] * len(self._rows),
        }
        self._colour = pn.widgets.Select(label="Colour by", options=list(self._groups), **WIDE)
        self._colour.param.watch(self._draw, "value")
        self._plane = pn.pane.Bokeh(sizing_mode="stretch_width")
        self._note = text()
        self._mark = ColumnDataSource({"x": [], "y": []})
        self._chosen_rows = Rows("Chosen on the map", session.open_candidate)
        self.body = pn.Column(
            card(
                text("<h2>Map of the embeddings</h2>"),
                self._colour,
                candidate_search("Find on the map", version, self._choose),
                self._chosen_rows,
                self._note,
            ),
            card(self._plane),
            stylesheets=[styles.MAP],
            sizing_mode="stretch_width",
        )
        self._draw()

    def _draw(self, *_: Any) -> None:
        version = self._session.version
        drawing, kept = figures.embedding_map(
            version.embeddings[self._rows],
            [version.titles[row] for row in self._rows.tolist()],
            self._groups[str(self._colour.value)],
        )
        self._points = _points(drawing)
        # A source belongs to one document's figure: the mark moves to the new one.
        self._mark = ColumnDataSource(dict(self._mark.data))
        drawing.scatter(
            "x", "y", source=self._mark, size=16, fill_alpha=0, line_color=MARK_COLOUR, line_width=3
        )
        drawing.on_event(Tap, self._tapped)
        self._plane.object = drawing
        shown = f"{len(self._rows):,} of {len(version.candidates):,} candidates"
        self._note.object = (
            f"<p>{shown} in the plane of their two principal components, which keeps {kept:.0%} of "
            "the variance. Choose a point, or search; values of the legend switch off.</p>"
        )

    def _tapped(self, event: Any) -> None:
        if event.x is None or event.y is None:
            return
        place = min(
            self._points,
            key=lambda one: (
                (self._points[one][0] - event.x) ** 2 + (self._points[one][1] - event.y) ** 2
            ),
        )
        ids = self._session.version.candidates["candidate_id"]
        self._choose(str(ids.iloc[self._rows[place]]))

    def _choose(self, candidate_id: str) -> None:
        row = self._session.version.row_of[candidate_id]
        self._chosen_rows.rows = [candidate_row(self._session.version, row)]
        [places] = (self._rows == row).nonzero()
        marked = [self._points[place] for place in places.tolist()]
        self._mark.data = {"x": [x for x, _ in marked], "y": [y for _, y in marked]}


def _points(drawing: figure) -> dict[int, tuple[float, float]]:
    """Where each place of the mapped candidates is drawn."""
    renderers: list[Any] = drawing.renderers
    return {
        place: (float(x), float(y))
        for data in (renderer.data_source.data for renderer in renderers)
        for place, x, y in zip(data["place"], data["x"], data["y"], strict=True)
    }

"""The page, with Panel: a heading, and views to go between."""

import html
from collections.abc import Callable

import panel as pn

from tfrs_twotower.evaluation.explore import styles
from tfrs_twotower.evaluation.explore.candidate_view import CandidateView
from tfrs_twotower.evaluation.explore.explored import Explored
from tfrs_twotower.evaluation.explore.map_view import MapView
from tfrs_twotower.evaluation.explore.recommendations_view import RecommendationsView
from tfrs_twotower.evaluation.explore.session import (
    CANDIDATE,
    MAP,
    RECOMMENDATIONS,
    VERSIONS,
    Session,
)
from tfrs_twotower.evaluation.explore.versions_view import VersionsView
from tfrs_twotower.evaluation.explore.widgets import WIDE, View, text

TITLE = "twotower explore"


def template(explored: Explored) -> pn.Template:
    """The page of one session, as a server sends it."""
    page = pn.Template(styles.TEMPLATE)
    page.add_panel("page", view(explored))
    return page


def view(explored: Explored) -> pn.Column:
    """The page of one session, for a notebook or a template."""
    return _Page(explored).body


class _Page:
    """The views of one session; each is made when it is first shown."""

    def __init__(self, explored: Explored) -> None:
        self._session = Session(explored, self._go)
        self._makers: dict[str, Callable[[Session], View]] = {
            RECOMMENDATIONS: RecommendationsView,
            CANDIDATE: CandidateView,
            MAP: MapView,
            **({VERSIONS: VersionsView} if explored.other else {}),
        }
        self._made: dict[str, tuple[View, pn.Column]] = {}
        self._tabs = pn.widgets.RadioButtonGroup(
            label="View", options=list(self._makers), stylesheets=[styles.TABS], **WIDE
        )
        self._tabs.param.watch(self._show, "value")
        self.body = pn.Column(
            text(_heading(explored)),
            self._tabs,
            stylesheets=[styles.PAGE],
            sizing_mode="stretch_width",
        )
        self._show()

    def _go(self, name: str) -> None:
        if self._tabs.value == name:
            self._show()
        self._tabs.value = name

    def _show(self, *_: object) -> None:
        chosen = str(self._tabs.value)
        if chosen not in self._made:
            shown = self._makers[chosen](self._session)
            # A holder: a view that lays out as a grid would not be hidden.
            holder = pn.Column(shown.body, sizing_mode="stretch_width")
            self._made[chosen] = shown, holder
            shown.refresh()
            self.body.append(holder)
        else:
            self._made[chosen][0].refresh()
        for name, (_view, holder) in self._made.items():
            holder.visible = name == chosen


def _heading(explored: Explored) -> str:
    version, other = explored.version, explored.other
    compared = f", beside version {other.number}" if other else ""
    return (
        f"<h1>{html.escape(explored.name)}</h1><p>Version {version.number}{compared}: "
        f"{len(version.candidates):,} candidates, {len(version.queries):,} users</p>"
    )

"""A user, what they had and what they get; profile, context and rules to turn."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import panel as pn

from tfrs_twotower.evaluation.explore import answers, controls, styles
from tfrs_twotower.evaluation.explore.rows import candidate_row, recommended_row
from tfrs_twotower.evaluation.explore.session import Session
from tfrs_twotower.evaluation.explore.widgets import (
    SHOWN_MATCHES,
    WIDE,
    Rows,
    Search,
    Turned,
    View,
    candidate_search,
    card,
    error_text,
    text,
    turned,
)
from tfrs_twotower.schema import UserError

SHOWN_HISTORY = 50


class RecommendationsView(View):
    """The first view."""

    def __init__(self, session: Session) -> None:
        """Makes the widgets; `refresh` fills them."""
        self._session = session
        version = session.version
        self._profile = self._turned(controls.profile_controls(version))
        self._context = self._turned(controls.context_controls(version))
        self._rules = self._turned(controls.rule_controls(version))
        largest = min(answers.MAX_K, version.config.export.max_k)
        self._k = pn.widgets.IntSlider(label="how many", start=1, end=largest, **WIDE)
        self._k.param.watch(self._change, "value_throttled")
        self._exclude = pn.widgets.Checkbox(label="leave out what the user already had", **WIDE)
        self._exclude.param.watch(self._change, "value")
        self._is_refreshing = False

        self._who, self._what = text(), text()
        self._history_rows = Rows(
            "History",
            session.open_candidate,
            on_remove=session.remove,
            empty="Empty: add candidates by their title.",
        )
        self._answer_rows = Rows(
            "Recommendations", session.open_candidate, empty="No candidate is eligible."
        )
        make_up = pn.widgets.Button(label="Make up a user", **WIDE)
        make_up.on_click(lambda _: session.choose_query(""))
        reset = pn.widgets.Button(label="Reset", **WIDE)
        reset.on_click(self._reset)
        note = (
            "The newest first."
            if version.reads_history
            else "This model reads no history: it is left out of the answer, no more."
        )
        self.body = pn.Column(
            card(self._user_search(), make_up, self._who, area="user"),
            card(self._what, self._answer_rows, area="answer"),
            card(
                text(f"<h2>History</h2><p>{note}</p>"),
                candidate_search("Add to the history", version, session.add),
                self._history_rows,
                area="history",
            ),
            card(
                *_titled("Profile", self._profile),
                *_titled("Context", self._context),
                *_titled("Rules", self._rules, self._k, self._exclude),
                reset,
                area="turn",
            ),
            stylesheets=[styles.RECOMMENDATIONS],
            sizing_mode="stretch_width",
        )

    def refresh(self) -> None:
        """Shows the selection and the answer to it."""
        version, selection = self._session.version, self._session.selection
        self._is_refreshing = True
        for one in self._profile:
            one.write(selection.values.get(one.control.name))
        self._k.value, self._exclude.value = selection.k, selection.exclude_known
        self._is_refreshing = False
        self._who.object = (
            f"<h2>{html.escape(selection.query_id)}</h2>"
            if selection.query_id
            else "<h2>Made up</h2><p>Nothing is known but what is chosen here.</p>"
        )
        newest_first = dict.fromkeys(selection.history[::-1])
        known = [name for name in newest_first if name in version.row_of]
        self._history_rows.rows = [
            {**candidate_row(version, version.row_of[name]), "removable": True}
            for name in known[:SHOWN_HISTORY]
        ]
        heading = "<h2>Recommendations</h2>"
        try:
            answer = answers.recommend(version, selection)
        except UserError as error:
            answer, heading = [], heading + error_text(error)
        else:
            heading += (
                "<p>The score, the most similar of the history, and what features of the user "
                "and the moment add.</p>"
            )
        self._what.object = heading
        self._answer_rows.rows = [recommended_row(version, one) for one in answer]

    def _turned(self, found: Sequence[controls.Control]) -> list[Turned]:
        return [turned(one, self._change) for one in found]

    def _change(self, *_: Any) -> None:
        if self._is_refreshing:
            return
        self._session.selection = dataclasses.replace(
            self._session.selection,
            values={one.control.name: one.read() for one in (*self._profile, *self._context)},
            rules={one.control.name: one.read() for one in self._rules},
            exclude_known=bool(self._exclude.value),
            k=int(self._k.value or 1),
        )
        self.refresh()

    def _reset(self, _: Any) -> None:
        self._is_refreshing = True
        for one in (*self._context, *self._rules):
            one.write(one.control.neutral)
        self._session.reset()

    def _user_search(self) -> Search:
        version = self._session.version

        def find(typed: str) -> list[dict[str, Any]]:
            rows = version.query_search.find(typed, SHOWN_MATCHES)
            return [{"key": name, "title": name} for name in map(version.query_id, rows)]

        label = f"Find one of {len(version.queries):,} users"
        return Search(label, "part of an id", find, self._session.choose_query)


def _titled(title: str, shown: Sequence[Turned], *more: Any) -> list[Any]:
    """A heading and widgets; nothing where there are none."""
    widgets = [*more, *(widget for one in shown for widget in one.widgets)]
    return [text(f"<h2>{title}</h2>"), *widgets] if widgets else []

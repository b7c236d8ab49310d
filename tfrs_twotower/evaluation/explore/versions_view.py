"""The answers of two versions to what was chosen, side by side."""

import html

import panel as pn

from tfrs_twotower.evaluation.explore import answers, candidates, styles
from tfrs_twotower.evaluation.explore.rows import moved, recommended_row
from tfrs_twotower.evaluation.explore.session import RECOMMENDATIONS, Session
from tfrs_twotower.evaluation.explore.widgets import Rows, View, card, error_text, text
from tfrs_twotower.schema import UserError


class VersionsView(View):
    """The view of what moves from the version to the one it is compared with."""

    def __init__(self, session: Session) -> None:
        """Makes the widgets; `refresh` fills them."""
        assert session.explored.other
        assert session.explored.other_lists
        self._session = session
        self._before, self._after = session.version, session.explored.other
        self._overlap = candidates.mean_overlap(
            session.explored.lists, session.explored.other_lists
        )
        self._summary = text()
        self._rows = [
            Rows(f"Version {one.number}", session.open_candidate)
            for one in (self._before, self._after)
        ]
        lists = [card(text(f"<h2>{one.label}</h2>"), one) for one in self._rows]
        self.body = pn.Column(
            card(self._summary),
            pn.Column(*lists, stylesheets=[styles.TWO], sizing_mode="stretch_width"),
            stylesheets=[styles.STACK],
            sizing_mode="stretch_width",
        )

    def refresh(self) -> None:
        """Asks both versions."""
        selection = self._session.selection
        try:
            before, after = (
                answers.recommend(one, selection) for one in (self._before, self._after)
            )
        except UserError as error:
            self._summary.object = error_text(error)
            return
        user = html.escape(selection.query_id) or "the made-up user"
        num_sampled = len(self._session.explored.lists.query_ids)
        self._summary.object = (
            f"<h2>What moves for {user}</h2><p>User, context and rules are those of "
            f"{RECOMMENDATIONS}. Over a sample of {num_sampled:,} users {self._overlap:.0%} of the "
            f"first {candidates.SHORT} are the same.</p>"
        )
        moves = {one.candidate_id: one for one in answers.moves(before, after)}
        for rows, version, answer in zip(
            self._rows, (self._before, self._after), (before, after), strict=True
        ):
            rows.rows = [
                recommended_row(version, one)
                | moved(moves[one.candidate_id], is_after=version is self._after)
                for one in answer
            ]

"""A candidate: what is known of it, its neighbours, the users that get it."""

import html
from typing import Any

import panel as pn

from tfrs_twotower.evaluation.explore import candidates, styles
from tfrs_twotower.evaluation.explore.rows import candidate_row
from tfrs_twotower.evaluation.explore.session import Session
from tfrs_twotower.evaluation.explore.widgets import WIDE, Rows, View, candidate_search, card, text


class CandidateView(View):
    """The view of one candidate."""

    def __init__(self, session: Session) -> None:
        """Makes the widgets; `refresh` fills them."""
        self._session = session
        self._facts = text("<p>Search for a candidate, or choose one in a list or on the map.</p>")
        self._neighbour_rows = Rows("Nearest neighbours", session.open_candidate)
        self._getting = text()
        self._getting_rows = Rows(
            "Users that get it", session.choose_query, empty="None of the sample."
        )
        self._add = pn.widgets.Button(label="Add to the history", **WIDE)
        self._add.on_click(lambda _: session.add(session.candidate_id))
        search = candidate_search("Find a candidate", session.version, session.open_candidate)
        self._rest = [
            card(text("<h2>Nearest neighbours</h2>"), self._neighbour_rows),
            card(self._getting, self._getting_rows),
        ]
        self.body = pn.Column(
            card(search, self._facts, self._add),
            *self._rest,
            stylesheets=[styles.THREE],
            sizing_mode="stretch_width",
        )

    def refresh(self) -> None:
        """Shows the candidate that was chosen; before that only the search."""
        version, candidate_id = self._session.version, self._session.candidate_id
        for part in (self._add, *self._rest):
            part.visible = bool(candidate_id)
        if not candidate_id:
            return
        row = version.row_of[candidate_id]
        known = candidates.popularity(version, row)
        facts = {
            "id": candidate_id,
            **version.attributes(row),
            "popularity": f"{known.num_queries:,} users had it: rank {known.rank:,} of "
            f"{known.corpus_size:,}, tenth {known.tenth} of 10",
        }
        self._facts.object = f"<h2>{html.escape(version.titles[row])}</h2>{_listed(facts)}"
        self._neighbour_rows.rows = [
            candidate_row(version, one.row)
            | {"value": f"{one.similarity:.2f}", "share": one.similarity}
            for one in candidates.neighbours(version, row)
        ]
        lists = self._session.explored.lists
        ranks = lists.ranks_of(candidate_id)
        short = sum(rank <= candidates.SHORT for _, rank in ranks)
        self._getting.object = (
            f"<h2>Users that get it</h2><p>Of a sample of {len(lists.query_ids):,} users {short:,} "
            f"have it among their first {candidates.SHORT}, {len(ranks):,} among their first "
            f"{lists.k}.</p>"
        )
        self._getting_rows.rows = [
            {"key": name, "title": name, "value": f"rank {rank}"}
            for name, rank in ranks[: candidates.NUM_NEIGHBOURS]
        ]


def _listed(facts: dict[str, Any]) -> str:
    return "".join(
        [
            "<dl>",
            *(
                f"<dt>{html.escape(name.replace('_', ' '))}</dt><dd>{html.escape(value)}</dd>"
                for name, value in facts.items()
            ),
            "</dl>",
        ]
    )

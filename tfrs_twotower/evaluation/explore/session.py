"""What one person has chosen, and the way to another view."""

import dataclasses
from collections.abc import Callable

from tfrs_twotower.evaluation.explore import answers
from tfrs_twotower.evaluation.explore.explored import Explored

RECOMMENDATIONS, CANDIDATE, MAP, VERSIONS = "Recommendations", "Candidate", "Map", "Versions"


class Session:
    """What one person has chosen.

    Attributes:
        explored: What is looked at.
        selection: The query and the rules.
        candidate_id: The candidate that is looked at; "": none.
    """

    def __init__(self, explored: Explored, show: Callable[[str], None]) -> None:
        """Begins with the first known user.

        Args:
            explored: What is looked at.
            show: Shows a view, by name, brought up to date.
        """
        self.explored = explored
        self.version = explored.version
        self.candidate_id = ""
        self._show = show
        first = self.version.query_id(0) if len(self.version.queries) else ""
        self.selection = answers.known_selection(self.version, first)

    def reset(self) -> None:
        """Leaves only what is known of the user."""
        self.selection = answers.known_selection(self.version, self.selection.query_id)
        self._show(RECOMMENDATIONS)

    def choose_query(self, query_id: str) -> None:
        """Takes a known user, context and rules as they are; "": one of whom nothing is known."""
        known = answers.known_selection(self.version, query_id)
        context = {
            name: value
            for name, value in self.selection.values.items()
            if name in self.version.config.features.context
        }
        self._change(query_id=query_id, history=known.history, values={**known.values, **context})

    def add(self, candidate_id: str) -> None:
        """Adds a candidate to the history, as its newest."""
        others = (one for one in self.selection.history if one != candidate_id)
        self._change(history=(*others, candidate_id))

    def remove(self, candidate_id: str) -> None:
        """Takes a candidate out of the history."""
        history = self.selection.history
        self._change(history=tuple(one for one in history if one != candidate_id))

    def open_candidate(self, candidate_id: str) -> None:
        """Looks at a candidate; one of the compared version alone has nothing to look at."""
        if candidate_id in self.version.row_of:
            self.candidate_id = candidate_id
            self._show(CANDIDATE)

    def _change(self, **changes: object) -> None:
        self.selection = dataclasses.replace(self.selection, **changes)  # type: ignore[arg-type]
        self._show(RECOMMENDATIONS)

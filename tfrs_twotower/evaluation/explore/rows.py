"""What a list shows of a candidate; see `widgets.Rows`."""

from typing import Any

from tfrs_twotower.evaluation.explore.answers import Move, Recommended
from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion


def candidate_row(version: ExploredVersion, row: int) -> dict[str, Any]:
    """Title and attributes."""
    return {
        "key": str(version.candidates["candidate_id"].iloc[row]),
        "title": version.titles[row],
        "detail": " · ".join(version.attributes(row).values()),
    }


def recommended_row(version: ExploredVersion, one: Recommended) -> dict[str, Any]:
    """With rank and score, and why."""
    near = ", ".join(f"{title} {similarity:.2f}" for title, similarity in one.nearest)
    adds = ", ".join(f"{name} {change:+.2f}" for name, change in one.contributions)
    return {
        **candidate_row(version, one.row),
        "rank": str(one.rank),
        "why": near and f"like {near}",
        "adds": adds,
        "value": f"{one.score:.3f}",
        "share": one.score,
    }


def moved(move: Move, *, is_after: bool) -> dict[str, str]:
    """The badge of a candidate: in the first of two lists only whether it goes."""
    if move.after is None:
        return {"badge": "gone", "tone": "down"}
    if not is_after:
        return {}
    if move.before is None:
        return {"badge": "new", "tone": "new"}
    change = move.before - move.after
    if not change:
        return {}
    arrow, tone = ("▲", "up") if change > 0 else ("▼", "down")
    return {"badge": f"{arrow} {abs(change)}", "tone": tone}

"""Click-through of what a server showed: by version, by label and by rank."""

from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from tfrs_twotower.schema.results import Tabular

QUERY_ID, CANDIDATE_ID, TIME_S = "query_id", "candidate_id", "time_s"
ARM = ["model", "version", "label"]
RANK = "rank"
_CLICKED = "clicked"


@dataclass(frozen=True, repr=False)
class ClickThrough(Tabular):
    """How much of what was shown was clicked.

    An interval is Wilson's, of 95 %: that of impressions that do not depend on one another. Those
    of few users do; then it is too narrow.

    Attributes:
        by_arm: A row each model, version and label: impressions, clicks, rate, low, high.
        by_rank: Likewise by rank within each.
        within_s: How long after an impression a click is due to it.
        num_clicks: Clicks of the log.
        num_unshown: Those that no impression precedes in that time.
        num_skipped: Records and queries of the log without impressions.
    """

    by_arm: pd.DataFrame
    by_rank: pd.DataFrame
    within_s: int
    num_clicks: int
    num_unshown: int
    num_skipped: int

    @property
    def title(self) -> str:
        """How many impressions there were."""
        return f"Click-through of {self.by_arm['impressions'].sum():,} impressions"

    def to_frame(self) -> pd.DataFrame:
        """The table by rank."""
        return self.by_rank

    def headline(self) -> pd.DataFrame:
        """The table by version and label."""
        return self.by_arm


def click_through(
    impressions: pd.DataFrame, clicks: pd.DataFrame, *, within_s: int, num_skipped: int = 0
) -> ClickThrough:
    """Joins impressions with clicks.

    A click is due to the last impression of its query and candidate in the `within_s` seconds
    before it, or in the same second; clicks due to the same impression count once.

    Args:
        impressions: query_id, candidate_id, time_s, model, version, label, rank; those of the same
            second in the order in which they were shown.
        clicks: query_id, candidate_id, time_s.
        within_s: How long after an impression a click is due to it, 0 or more.
        num_skipped: See `ClickThrough`.
    """
    # One type on both sides, whatever made the frames: pandas joins no others.
    keys = {QUERY_ID: "str", CANDIDATE_ID: "str", TIME_S: "int64"}
    shown = impressions.astype(keys).sort_values(TIME_S, kind="stable", ignore_index=True)
    shown["place"] = shown.index
    due = pd.merge_asof(
        clicks.astype(keys).sort_values(TIME_S, kind="stable"),
        shown[[QUERY_ID, CANDIDATE_ID, TIME_S, "place"]],
        on=TIME_S,
        by=[QUERY_ID, CANDIDATE_ID],
        tolerance=within_s,
    )["place"]
    shown[_CLICKED] = shown["place"].isin(due)
    return ClickThrough(
        by_arm=_rates(shown, ARM),
        by_rank=_rates(shown, [*ARM, RANK]),
        within_s=within_s,
        num_clicks=len(clicks),
        num_unshown=int(due.isna().sum()),
        num_skipped=num_skipped,
    )


def _rates(shown: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    groups = shown.groupby(by, sort=True)[_CLICKED]
    table = groups.agg(impressions="size", clicks="sum").reset_index()
    intervals = [
        binomtest(clicks, impressions).proportion_ci(method="wilson")
        for clicks, impressions in zip(table["clicks"], table["impressions"], strict=True)
    ]
    table["rate"] = table["clicks"] / table["impressions"]
    table["low"] = [float(interval.low) for interval in intervals]
    table["high"] = [float(interval.high) for interval in intervals]
    return table

"""The result of an evaluation, and how its files are named."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tfrs_twotower.evaluation.cautions import among_in_words
from tfrs_twotower.evaluation.protocols import FULL, Unit
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.evaluation.slices import ALL
from tfrs_twotower.evaluation.summaries import HEADLINE, Intervals, Values
from tfrs_twotower.schema.results import Tabular

# Names of systems: the model by exact search, and what the exported index finds under the rules.
MODEL, SERVED, POPULARITY = "model", "served", "popularity"
# Splits that let no model learn from what comes after the events that it is judged on.
IN_TIME = ("time", "dates")
CURVE_CUTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)


@dataclass(frozen=True, repr=False)
class Evaluation(Tabular):
    """The result of an evaluation.

    A system is "model", "served" (the exported index under the rules, where models are given) or a
    baseline; a slice is "all", "warm", "cold", ...

    Attributes:
        split: The split that was evaluated.
        protocol: Among which candidates; see `protocols`.
        unit: What a query is.
        relevant_from: The least weight of a relevant candidate.
        num_queries: By slice.
        num_positives: Relevant candidates of all queries.
        num_known: Relevant candidates left out because their query had them before.
        num_left_out: Queries left out by the protocol.
        corpus_size: Number of candidates.
        excludes_known: Whether what a query had before is not eligible.
        split_by: How the log was split, `split.by` of the config.
        is_refit: Whether model and baselines know the validation split too (`training.refit`).
        cautions: Where the figures leak or flatter; see `cautions`.
        systems: By system and slice the metrics by name, None where the slice is empty.
        intervals: Likewise 95 % bootstrap intervals of the headline metrics.
        recall_curve: For each system recall at each of `CURVE_CUTS` up to the corpus size.
        per_query: A row a query: its id, its relevant candidates, their ranks, the model's list.
        rankings: By system.
        details: See `insights` and `ablation`.
        serving_cost: See `serving_cost`; not part of `as_dict`, as it differs from one time to the
            next.
    """

    split: str
    protocol: str
    unit: Unit
    relevant_from: float
    num_queries: dict[str, int]
    num_positives: int
    num_known: int
    num_left_out: int
    corpus_size: int
    excludes_known: bool
    split_by: str
    is_refit: bool
    cautions: list[str]
    systems: dict[str, dict[str, Values]]
    intervals: dict[str, dict[str, Intervals]]
    recall_curve: dict[str, list[float]]
    per_query: pd.DataFrame
    rankings: dict[str, Ranking]
    details: dict[str, Any] = field(default_factory=dict)
    serving_cost: dict[str, Any] = field(default_factory=dict)

    @property
    def is_below_popularity(self) -> bool:
        """Whether recommending the same popular candidates to everybody does better."""
        model, popular = (self.systems[name][ALL] for name in (MODEL, POPULARITY))
        return bool((model[HEADLINE[0]] or 0.0) < (popular[HEADLINE[0]] or 0.0))

    @property
    def title(self) -> str:
        """What was evaluated: the protocol, and whether its figures are those to quote."""
        words = (
            f"{self.split} split, {self.num_queries[ALL]:,} {self.unit}s, "
            f"{among_in_words(self.protocol, self.corpus_size)}"
        )
        if self.is_refit:
            words += ", refit on train and validation"
        if not self.excludes_known:
            words += ", known positives among them"
        if self.relevant_from:
            words += f", relevant from a weight of {self.relevant_from:g}"
        if self.num_left_out:
            words += f", {self.num_left_out:,} queries left out, whose lists lack what is relevant"
        return words + (": the figures to quote" if self.is_to_quote else "")

    @property
    def is_to_quote(self) -> bool:
        """Whether these are the figures of a run to quote: on the test split, in time, of users.

        Over the whole corpus, and without a caution.
        """
        return self.split == "test" and self.split_by in IN_TIME and not self.cautions

    def to_frame(self) -> pd.DataFrame:
        """A row a system and slice, a column a metric; NaN where there is none."""
        index = [(system, part) for system, parts in self.systems.items() for part in parts]
        rows = [self.systems[system][part] for system, part in index]
        names = pd.MultiIndex.from_tuples(index, names=["system", "slice"])
        return pd.DataFrame(rows, index=names, dtype=float)

    def headline(self) -> pd.DataFrame:
        """The headline metrics of each system over all queries."""
        table = self.to_frame()
        of_all = table.index.get_level_values("slice") == ALL
        return table.loc[of_all, list(HEADLINE)].droplevel("slice")

    def as_dict(self) -> dict[str, Any]:
        """The aggregates, as JSON holds them."""
        return {
            "title": self.title,
            "split": self.split,
            "protocol": self.protocol,
            "is_full_ranking": self.protocol == FULL,
            "unit": self.unit,
            "relevant_from": self.relevant_from,
            "num_queries": self.num_queries,
            "num_positives": self.num_positives,
            "num_positives_known_before": self.num_known,
            "num_queries_left_out": self.num_left_out,
            "corpus_size": self.corpus_size,
            "excludes_known": self.excludes_known,
            "split_by": self.split_by,
            "is_refit": self.is_refit,
            "cautions": self.cautions,
            "metrics": self.systems,
            "intervals": self.intervals,
            "recall_curve": {
                "k": [k for k in CURVE_CUTS if k <= self.corpus_size],
                **self.recall_curve,
            },
            **self.details,
        }


def evaluation_name(
    split: str, protocol: str = FULL, unit: str = "user", relevant_from: float = 0.0
) -> str:
    """How the files of an evaluation are named."""
    of_unit = "" if unit == "user" else f"-{unit}"
    above = f"-from-{relevant_from:g}" if relevant_from else ""
    return f"{split}-{protocol}{of_unit}{above}"

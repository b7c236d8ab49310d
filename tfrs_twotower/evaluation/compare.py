"""Compares runs on the same queries: metrics, significance of the differences, common lists."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.intervals import Interval, bootstrap, paired_p_value
from tfrs_twotower.evaluation.protocols import FULL
from tfrs_twotower.evaluation.result import evaluation_name
from tfrs_twotower.evaluation.summaries import HEADLINE, LIST_LENGTH
from tfrs_twotower.models.run_folder import CONFIG_FILE, EVALUATION, MADE_BY
from tfrs_twotower.schema import UsageError, UserError, differences, load_config
from tfrs_twotower.schema.folders import read_manifest
from tfrs_twotower.schema.results import Tabular

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """A metric of one run and its difference from the first run, over the queries they share.

    `p_value`: of the hypothesis that there is no difference; see `paired_p_value`.
    """

    metric: str
    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    p_value: float

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05."""
        return self.p_value < SIGNIFICANT


@dataclass(frozen=True, repr=False)
class Comparison(Tabular):
    """The result of a comparison; the others are compared with the first run.

    Attributes:
        runs: Names of the runs.
        evaluation: Which evaluation of the runs, as its files are named.
        protocol: Among which candidates; see `protocols`.
        relevant_from: The least weight of a relevant candidate.
        num_queries: Queries that all runs were evaluated on.
        metrics: By run; differences of the first run are 0.
        overlap_at_k: By run: share of the lists in common with the first run.
        config_differences: By run: path, value of the first run, own value.
    """

    runs: tuple[str, ...]
    evaluation: str
    protocol: str
    relevant_from: float
    num_queries: int
    metrics: dict[str, tuple[Difference, ...]]
    overlap_at_k: dict[str, float]
    config_differences: dict[str, list[tuple[str, Any, Any]]]

    @property
    def title(self) -> str:
        """What was compared."""
        return (
            f"Comparison of {len(self.runs)} runs with {self.runs[0]}, evaluation "
            f"{self.evaluation}: {self.num_queries:,} queries"
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a run and metric: value, difference from the first run, their intervals, p."""
        rows = [
            {
                "run": run,
                "metric": found.metric,
                "value": found.value,
                "low": found.interval.low,
                "high": found.interval.high,
                "difference": found.difference,
                "difference_low": found.difference_interval.low,
                "difference_high": found.difference_interval.high,
                "p_value": found.p_value,
            }
            for run, differences in self.metrics.items()
            for found in differences
        ]
        return pd.DataFrame(rows).set_index(["run", "metric"])

    def headline(self) -> pd.DataFrame:
        """The value of each metric by run."""
        return self.to_frame()["value"].unstack("metric").loc[list(self.runs), list(HEADLINE)]

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "runs": list(self.runs),
            "evaluation": self.evaluation,
            "protocol": self.protocol,
            "is_full_ranking": self.protocol == FULL,
            "relevant_from": self.relevant_from,
            "num_queries": self.num_queries,
            "metrics": {
                run: {
                    found.metric: {
                        "value": found.value,
                        "interval": found.interval,
                        "difference": found.difference,
                        "difference_interval": found.difference_interval,
                        "p_value": found.p_value,
                        "is_significant": found.is_significant,
                    }
                    for found in all_found
                }
                for run, all_found in self.metrics.items()
            },
            f"overlap_at_{LIST_LENGTH}": self.overlap_at_k,
            "config_differences": self.config_differences,
        }


def compare(runs: Sequence[str | Path], *, evaluation: str = evaluation_name("test")) -> Comparison:
    """Compares evaluated runs on the queries that all of them were evaluated on.

    Args:
        runs: Run folders, two or more, each evaluated.
        evaluation: Which evaluation of the runs, as its files are named.

    Raises:
        UsageError: If there are fewer than two runs.
        UserError: If a run has no such evaluation, the runs share no query, or the queries have
            different relevant candidates.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more")
    names = _names([Path(run) for run in runs])
    evaluated = {run: _read(Path(path), evaluation) for run, path in zip(names, runs, strict=True)}
    first, *others = names
    aggregates = evaluated[first].aggregates
    shared = _shared({run: found.per_query for run, found in evaluated.items()})
    # The order and the seed of the evaluation give its intervals again.
    clusters = pd.factorize(shared[first].index.get_level_values(0))[0]
    values = {run: _metrics_of(table) for run, table in shared.items()}
    configs = {
        run: load_config(Path(path) / CONFIG_FILE).model_dump(mode="json")
        for run, path in zip(names, runs, strict=True)
    }
    return Comparison(
        runs=tuple(names),
        evaluation=evaluation,
        protocol=aggregates["protocol"],
        relevant_from=aggregates.get("relevant_from", 0.0),
        num_queries=len(clusters),
        metrics={
            run: _differences(
                values[run], values[first], clusters, configs[run]["training"]["seed"]
            )
            for run in names
        },
        overlap_at_k={run: _overlap(shared[first], shared[run]) for run in others},
        config_differences={run: differences(configs[first], configs[run]) for run in others},
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """Short names: the last part of the path where that tells the runs apart."""
    short = [path.resolve().name for path in runs]
    if len(set(short)) == len(short):
        return short
    return [f"{path} ({place})" for place, path in enumerate(runs, 1)]


class _Evaluated(NamedTuple):
    per_query: pd.DataFrame
    aggregates: dict[str, Any]  # See `Evaluation.as_dict`.


def _read(folder: Path, name: str) -> _Evaluated:
    read_manifest(folder, kind="run", made_by=MADE_BY)
    path = folder / EVALUATION / f"{name}.parquet"
    try:
        table = pd.read_parquet(path)
        aggregates = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{folder} has no evaluation {name}: make it with `twotower evaluate --run {folder}` "
            "and the same split, protocol and unit"
        ) from error
    # Events of one user are several queries with one id: they are numbered in their order.
    table["occurrence"] = table.groupby("query_id").cumcount()
    return _Evaluated(table.set_index(["query_id", "occurrence"]), aggregates)


def _shared(evaluated: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    tables = list(evaluated.values())
    index = tables[0].index
    for table in tables[1:]:
        index = index[index.isin(table.index)]
    if index.empty:
        raise UserError(
            f"the runs {', '.join(evaluated)} were evaluated on different queries: nothing to "
            "compare; evaluate them on the same data and split"
        )
    shared = {run: table.loc[index] for run, table in evaluated.items()}
    lengths = [table["ranks"].map(len).to_numpy() for table in shared.values()]
    if any((other != lengths[0]).any() for other in lengths[1:]):
        raise UserError(
            f"the runs {', '.join(evaluated)} have the same queries but other relevant candidates: "
            "they were evaluated on different data"
        )
    return shared


def _metrics_of(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """`[num_queries, num_metrics]` the headline metrics of each query."""
    ranks = np.concatenate(table["ranks"].to_list())
    queries = np.repeat(np.arange(len(table)), table["ranks"].map(len))
    return np.stack([metrics.by_name(name, queries, ranks) for name in HEADLINE], axis=1)


def _differences(
    own: npt.NDArray[np.float64],
    first: npt.NDArray[np.float64],
    clusters: npt.NDArray[np.int64],
    seed: int,
) -> tuple[Difference, ...]:
    gained = own - first
    # Both come from the same resamples.
    drawn = bootstrap(np.concatenate([own, gained], axis=1), clusters, seed)
    count = len(HEADLINE)
    return tuple(
        Difference(
            metric=name,
            value=float(own[:, place].mean()),
            interval=drawn[place],
            difference=float(gained[:, place].mean()),
            difference_interval=drawn[count + place],
            p_value=paired_p_value(gained[:, place], clusters, seed),
        )
        for place, name in enumerate(HEADLINE)
    )


def _overlap(first: pd.DataFrame, other: pd.DataFrame) -> float:
    """Mean share of the lists in common, by candidate id: rows may differ between data sets."""
    lists = [table["top_candidate_ids"].explode() for table in (first, other)]
    codes = pd.factorize(pd.concat(lists))[0]  # An empty list is one missing value: -1.
    ends = np.cumsum([len(part) for part in lists])
    own, others = (
        _as_rows(part, table)
        for part, table in zip(np.split(codes, ends[:1]), (first, other), strict=True)
    )
    return float(np.nanmean(metrics.overlap_at_k(own, others, LIST_LENGTH)))


def _as_rows(codes: npt.NDArray[np.int64], table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """`[num_queries, LIST_LENGTH]`, -1 where a list is shorter."""
    lengths = np.maximum(table["top_candidate_ids"].map(len).to_numpy(), 1)
    rows = np.full([len(table), LIST_LENGTH], -1, np.int64)
    queries = np.repeat(np.arange(len(table)), lengths)
    rows[queries, np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)] = codes
    return rows

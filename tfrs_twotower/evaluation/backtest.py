"""The result of a backtest: what policies of retraining reach, and which of them is worth it.

All policies are judged on the same queries, so that the difference of two of them is a mean of
paired differences, with an interval over users as in any comparison of runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrs_twotower.evaluation.intervals import Interval, bootstrap
from tfrs_twotower.schema.results import Tabular

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Gain(NamedTuple):
    """By how much the recall of one policy exceeds that of another, over the same queries."""

    policy: str
    over: str
    mean: float
    interval: Interval

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval.low > 0.0

    def __str__(self) -> str:
        """The figures: the difference and its interval."""
        return f"{self.mean:+.4f} (95 % {self.interval.low:+.4f} to {self.interval.high:+.4f})"


class Recommendation(NamedTuple):
    """The policy to choose.

    Attributes:
        policy: The one that trains least of those that the best does not exceed beyond chance.
        gain: Over the best of the policies that train less; None where none does.
        forgone: What the best of the policies that train more gains over it; None likewise.
    """

    policy: str
    gain: Gain | None
    forgone: Gain | None

    @property
    def reason(self) -> str:
        """Why, with the figures."""
        told = []
        if self.gain:
            told.append(f"{self.gain} over {self.gain.over}")
        if self.forgone:
            told.append(f"{self.forgone.policy} gains nothing beyond chance: {self.forgone}")
        return "; ".join(told) or "the only policy"


class Served(NamedTuple):
    """What a policy did at a moment, and how that served until the next.

    Attributes:
        action: "start", "keep", "refresh", "promote", or "reject": trained, and held by the gate.
        reason: Of the gate; "" where it had none.
        num_trained: Examples that were trained on, each as often as there were epochs.
        processor_s: Of preparing, training and the gate.
        recalls: `[num_queries]` recall at the cut-off of each query of the step.
    """

    action: str
    reason: str
    num_trained: int
    processor_s: float
    recalls: Floats


@dataclass(frozen=True)
class Step:
    """A step of the replay: its queries, and what each policy reached.

    Attributes:
        first_day: 00:00 UTC of it is the moment of the decisions.
        query_ids: `[num_queries]`.
        num_positives: Events to find.
        num_new: Further ones, of candidates that came later than the moment; in no policy's reach.
        served: By policy.
    """

    first_day: date
    query_ids: npt.NDArray[np.str_]
    num_positives: int
    num_new: int
    served: dict[str, Served]


@dataclass(frozen=True, repr=False)
class Backtest(Tabular):
    """A log replayed under policies of retraining.

    Attributes:
        k: The cut-off of recall@k.
        step_days: Length of a step.
        steps: In their order.
        num_without_time: Interactions left out.
        seed: Of the intervals.
    """

    k: int
    step_days: int
    steps: list[Step]
    num_without_time: int
    seed: int

    @property
    def policies(self) -> list[str]:
        """Their names, in the order they were given."""
        return list(self.steps[0].served)

    @property
    def recalls(self) -> dict[str, Floats]:
        """`[num_queries]` of all steps together, by policy."""
        return {
            name: np.concatenate([step.served[name].recalls for step in self.steps])
            for name in self.policies
        }

    @property
    def users(self) -> Ints:
        """`[num_queries]` of all steps together: equal numbers for the queries of one user."""
        ids = np.concatenate([step.query_ids for step in self.steps])
        return np.unique(ids, return_inverse=True)[1].astype(np.int64)

    @property
    def num_trained(self) -> dict[str, int]:
        """Examples trained on after the first model, by policy."""
        return {
            name: sum(step.served[name].num_trained for step in self.steps)
            for name in self.policies
        }

    @property
    def minutes_a_step(self) -> dict[str, float]:
        """Processor minutes of preparing, training and the gate, by policy: mean over the steps."""
        return {
            name: sum(step.served[name].processor_s for step in self.steps) / 60 / len(self.steps)
            for name in self.policies
        }

    @property
    def recommendation(self) -> Recommendation:
        """Which policy to choose."""
        return recommend(self.recalls, self.users, self.num_trained, self.seed)

    @property
    def title(self) -> str:
        """What was replayed, and the recommendation."""
        chosen = self.recommendation
        return (
            f"{len(self.steps)} steps of {self.step_days} d from {self.steps[0].first_day}, "
            f"{len(self.users):,} queries, recall@{self.k}. Recommended: {chosen.policy}, "
            f"{self.minutes_a_step[chosen.policy]:.2f} processor minutes a step. {chosen.reason}"
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a step: recall of each policy; the last row is over all queries."""
        rows = {
            step.first_day.isoformat(): {
                name: served.recalls.mean() for name, served in step.served.items()
            }
            for step in self.steps
        }
        rows["all"] = {name: values.mean() for name, values in self.recalls.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=self.policies)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it; all but `minutes_a_step` is the same in every replay."""
        recalls, users = self.recalls, self.users
        intervals = bootstrap(np.stack(list(recalls.values()), axis=1), users, self.seed)
        best, *_ = by_work(self.num_trained)
        chosen = self.recommendation
        return {
            "k": self.k,
            "step_days": self.step_days,
            "num_queries": len(users),
            "num_without_time": self.num_without_time,
            "steps": [
                {
                    "first_day": step.first_day.isoformat(),
                    "num_queries": len(step.query_ids),
                    "num_positives": step.num_positives,
                    "num_positives_of_new_candidates": step.num_new,
                    "policies": {
                        name: {
                            "recall": float(served.recalls.mean()),
                            "action": served.action,
                            "reason": served.reason,
                        }
                        for name, served in step.served.items()
                    },
                }
                for step in self.steps
            ],
            "policies": {
                name: {
                    "recall": float(recalls[name].mean()),
                    "interval": interval,
                    "over_first": gain(recalls, name, best, users, self.seed)._asdict(),
                    "num_trained": self.num_trained[name],
                }
                for name, interval in zip(recalls, intervals, strict=True)
            },
            "recommendation": {"policy": chosen.policy, "reason": chosen.reason},
            "minutes_a_step": self.minutes_a_step,
        }


def gain(recalls: Mapping[str, Floats], policy: str, over: str, users: Ints, seed: int) -> Gain:
    """How much one policy gains over another.

    Args:
        recalls: `[num_queries]` by policy, the same queries in all.
        policy: The one.
        over: The other.
        users: `[num_queries]`, whose query each is.
        seed: Of the bootstrap.
    """
    gained = recalls[policy] - recalls[over]
    [interval] = bootstrap(gained[:, np.newaxis], users, seed)
    return Gain(policy, over, float(gained.mean()), interval)


def by_work(num_trained: Mapping[str, int]) -> Sequence[str]:
    """Policies, those that train least first; equal ones as they stand."""
    return sorted(num_trained, key=lambda name: num_trained[name])


def recommend(
    recalls: Mapping[str, Floats], users: Ints, num_trained: Mapping[str, int], seed: int
) -> Recommendation:
    """Chooses the policy that trains least of those that none exceeds beyond chance.

    Work is counted in trained examples and not in minutes, so that a busy machine changes nothing.

    Args:
        recalls: `[num_queries]` by policy, the same queries in all.
        users: `[num_queries]`, whose query each is.
        num_trained: By policy.
        seed: Of the bootstrap.
    """
    names = by_work(num_trained)
    means = {name: float(recalls[name].mean()) for name in names}

    def best_of(some: Sequence[str]) -> str | None:
        return max(some, key=lambda name: means[name]) if some else None

    for place, chosen in enumerate(names):
        better = best_of(names[place + 1 :])
        forgone = gain(recalls, better, chosen, users, seed) if better else None
        if forgone is None or not forgone.is_beyond_chance:
            break
    lesser = best_of(names[:place])
    gained = gain(recalls, chosen, lesser, users, seed) if lesser else None
    return Recommendation(chosen, gained, forgone)

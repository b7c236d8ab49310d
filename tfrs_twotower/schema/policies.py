"""Policies of retraining, and the steps of a replay: what is done when.

A replay has moments `step_days` apart. At each the policies decide on the model that serves until
the next; at the first all have the same one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NamedTuple

from tfrs_twotower.schema.errors import Parameter, UsageError

Start = Literal["cold", "warm"]
NEVER, REFRESH = "never", "refresh"
DEFAULT_POLICIES = f"{NEVER},{REFRESH},cold-4,warm,cold"
MEANINGS = (
    "never: the first model and its candidates; refresh: the first model, new candidates each "
    "step; cold: trained from nothing each step; warm: trained on from the served model's weights "
    "each step; cold-N, warm-N: every N steps, and a refresh between"
)


class Policy(NamedTuple):
    """When to train, and whether new candidates are added at once.

    Attributes:
        name: As the user writes it.
        start: What a training starts from; None: there is none after the first.
        every: Steps from one training to the next.
        refreshes: Whether the candidates are those of the last moment.
    """

    name: str
    start: Start | None = None
    every: int = 1
    refreshes: bool = True

    def trains_at(self, step: int) -> bool:
        """Whether it trains at a moment; the model of moment 0 is that of all policies."""
        return self.start is not None and step > 0 and step % self.every == 0


def parse_policies(text: str) -> tuple[Policy, ...]:
    """Reads names with commas between them, see `MEANINGS`.

    Raises:
        UsageError: If one is unknown or there twice.
    """
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) < len(names):
        raise UsageError(Parameter("policies"), f" {text}: a policy is there twice")
    return tuple(map(_policy, names))


def _policy(name: str) -> Policy:
    if name == NEVER:
        return Policy(name, refreshes=False)
    if name == REFRESH:
        return Policy(name)
    for start in ("cold", "warm"):
        if found := re.fullmatch(rf"{start}(?:-([1-9][0-9]{{0,3}}))?", name):
            return Policy(name, start, int(found[1] or 1))
    raise UsageError(
        Parameter("policies"),
        f": {name!r} is none, expected never, refresh, cold, warm, or with a number of steps "
        "cold-4, warm-7",
    )


@dataclass(frozen=True)
class Steps:
    """`count` steps of `days` days from a day on, 00:00 UTC."""

    start: date
    days: int
    count: int

    @classmethod
    def last(cls, last_s: int, days: int, count: int) -> "Steps":
        """The steps that end with the day of the last event.

        Args:
            last_s: Its time, Unix seconds.
            days: Of a step.
            count: Of steps.
        """
        end = datetime.fromtimestamp(last_s, UTC).date() + timedelta(days=1)
        return cls(end - timedelta(days=days * count), days, count)

    @property
    def moments(self) -> Sequence[date]:
        """The beginnings of the steps, and the end of the last: `count + 1` days."""
        return [self.start + timedelta(days=self.days * step) for step in range(self.count + 1)]


def parse_step(text: str) -> int:
    """Days of a step, from text such as `1d` or `7d`.

    Raises:
        UsageError: If it is none.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,3})d", text)
    if not found:
        raise UsageError(Parameter("step"), f" {text}: expected whole days, such as 1d or 7d")
    return int(found[1])


def parse_day(text: str) -> date:
    """A day, from text such as 2024-03-01.

    Raises:
        UsageError: If it is none.
    """
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        message = f" {text}: expected a day, such as 2024-03-01"
        raise UsageError(Parameter("start"), message) from error


def seconds_of(day: date) -> int:
    """Unix seconds of 00:00 UTC."""
    return int(datetime.combine(day, time(), UTC).timestamp())

"""Policies of retraining, replayed over logs: recall@10 and processor minutes of each.

The generated sample with a planted drift, so that training more often must find more, and without
one; the news platform DeskDrop with the config that `twotower init` drafts; MovieLens 1M with its
shipped config. `--quick`: three steps of DeskDrop, two epochs.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from _datasets import deskdrop
from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset

ALL = "never,refresh,cold-3,warm,cold"


@dataclass(frozen=True)
class Replay:
    """A log, and how it is replayed.

    Attributes:
        write: Writes the dataset folder; is given it and the folder of the public data.
        policies: Names with commas between them.
        step: From one decision to the next.
        num_steps: How many.
        start: Day of the first decision; None: the steps end with the log.
    """

    write: Callable[[Path, Path], object]
    policies: str
    step: str
    num_steps: int
    start: str | None = None


def sample(folder: Path, data: Path, *, drift: bool) -> None:
    """Writes the generated log."""
    write_dataset("sample", folder, drift=drift)


def movielens_1m(folder: Path, data: Path) -> None:
    """Writes MovieLens 1M."""
    write_dataset("movielens-1m", folder, data / "ml-1m")


LOGS = {
    "DeskDrop": Replay(deskdrop, ALL, "7d", 8, "2016-06-01"),
    "planted drift": Replay(partial(sample, drift=True), ALL, "7d", 6),
    "no drift": Replay(partial(sample, drift=False), "never,refresh,cold", "7d", 3),
    "MovieLens 1M": Replay(movielens_1m, "never,refresh,warm,cold", "30d", 4, "2000-10-01"),
}


def replay(name: str, log: Replay, data: Path, settings: list[str]) -> list[Measurement]:
    """Replays a log; the table's "beside" is the policy that trains least."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        log.write(folder / "log", data)
        found = api.backtest(
            api.load_config(folder / "log" / "twotower.yaml", settings),
            folder / "log",
            folder / "work",
            policies=log.policies,
            step=log.step,
            start=log.start,
            num_steps=log.num_steps,
            progress=False,
        ).as_dict()
    measured = [Measurement("queries", found["num_queries"], name)]
    for step in found["steps"]:
        measured += [
            Measurement(policy, of["recall"], f"recall@10 from {step['first_day']}, {name}")
            for policy, of in step["policies"].items()
        ]
    for policy, of in found["policies"].items():
        first = found["policies"][of["over_first"]["over"]]
        low, high = of["over_first"]["interval"]
        actions = [step["policies"][policy]["action"] for step in found["steps"]]
        values = {
            "gain at least": low,
            "gain at most": high,
            "models promoted": actions.count("promote"),
            "models rejected by the gate": actions.count("reject"),
            "processor minutes a step": found["minutes_a_step"][policy],
            "recommended": policy == found["recommendation"]["policy"],
        }
        beside = of["over_first"]["over"], first["recall"]
        measured.append(Measurement(policy, of["recall"], f"recall@10, {name}", *beside))
        measured += [
            Measurement(policy, float(value), f"{what}, {name}") for what, value in values.items()
        ]
    return measured


@benchmark(
    code=[*TRAINED, "tfrs_twotower/publishing/release.py", "tfrs_twotower/datasets"], data="."
)
def main(quick: bool, data: Path) -> list[Measurement]:
    """Replays one log after the other."""
    if quick:
        short = replace(LOGS["DeskDrop"], num_steps=3)
        return replay("DeskDrop", short, data, ["training.epochs=2"])
    return [one for name, log in LOGS.items() for one in replay(name, log, data, [])]


if __name__ == "__main__":
    main()

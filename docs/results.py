"""Writes docs/benchmarks.md from benchmarks/results, by docs/benchmarks.md.jinja.

    python docs/results.py

A file of results holds what `python benchmarks/NAME.py --record` measured: the measurements of
`--json`, and the command, machine, date, commit and measured code.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TEMPLATE = ROOT / "docs" / "benchmarks.md.jinja"
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Measurement:
    """One object of the list that `--json` writes."""

    name: str
    value: float | None  # None where only the ratio was kept.
    unit: str
    versus: str | None
    ratio: float | None


@dataclass(frozen=True)
class Result:
    """A file of `benchmarks/results`."""

    command: str
    machine: str
    date: str
    commit: str
    code: list[str]  # Paths of the code that the figures depend on most.
    measurements: list[Measurement]
    note: str = ""

    def __call__(self, name: str, unit: str | None = None) -> float:
        """The value of that name; the unit tells measurements of one name apart.

        Raises:
            LookupError: Not exactly one value has the name and the unit.
        """
        found = {one.value for one in self._named(name, unit)}
        return _only(found, f"the value of {name!r}, {unit or 'any unit'}: {self.command}")

    def ratio(self, name: str, versus: str | None = None, unit: str | None = None) -> float:
        """How many times better than `versus` it is, which may be the beginning of the name.

        Raises:
            LookupError: Not exactly one ratio has the names and the unit.
        """
        named = [one for one in self._named(name, unit) if one.versus is not None]
        exact = [one for one in named if one.versus == versus]
        found = exact or [one for one in named if (one.versus or "").startswith(versus or "")]
        return _only(
            {one.ratio for one in found}, f"the ratio of {name!r}, {versus}: {self.command}"
        )

    def _named(self, name: str, unit: str | None) -> list[Measurement]:
        return [one for one in self.measurements if one.name == name and unit in (None, one.unit)]

    @property
    def told(self) -> str:
        """Where the figures come from, as Markdown."""
        note = f"; {self.note}" if self.note else ""
        return f"`{self.command}`: {self.date}, commit {self.commit}, {self.machine}{note}."


def _only(found: set[float | None], what: str) -> float:
    values = found - {None}
    if len(values) != 1:
        raise LookupError(f"{len(values)} for {what}")
    return values.pop()


def load() -> dict[str, Result]:
    """Every result by its file's name."""
    results = {}
    for path in sorted(RESULTS.glob("*.json")):
        held = json.loads(path.read_text(encoding="utf-8"))
        measured = [Measurement(**one) for one in held.pop("measurements")]
        results[path.stem] = Result(**held, measurements=measured)
    return results


def _significant(digits: int, value: float) -> str:
    """172,000 rather than 171,823.3; 0.73 rather than 0.73127."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def benchmarks_page() -> str:
    """The page, every figure of it from a file of results."""
    results = load()
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    for digits in (2, 3, 4):
        environment.filters[f"d{digits}"] = lambda value, n=digits: _significant(n, value)
        environment.filters[f"f{digits}"] = lambda value, n=digits: f"{value:.{n}f}"
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(result=results.__getitem__, **results)


def age_page() -> str:
    """Each result with the commits since that changed the code it measures."""
    lines = [
        "# Age of the figures",
        "",
        "For each of the [benchmarks](benchmarks.md): how many commits have changed the measured "
        "code since, up to the commit from which these pages were built. A change does not "
        "necessarily move a figure, but a figure with no commits since needs no new run. The code "
        "is below `tfrs_twotower/`, or in a folder beside it.",
        "",
        "| command | date | commit | commits since | code |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in sorted(load().values(), key=lambda one: one.date, reverse=True):
        code = ", ".join(path.removeprefix("tfrs_twotower/") for path in result.code)
        since = commits_since(result.commit, result.code)
        told = "not known without the history" if since is None else str(since)
        lines.append(f"| `{result.command}` | {result.date} | {result.commit} | {told} | {code} |")
    return "\n".join(lines) + "\n"


def commits_since(commit: str, paths: list[str]) -> int | None:
    """How many commits after `commit` touch `paths`; None where git does not hold it."""
    found = subprocess.run(
        ["git", "rev-list", "--count", f"{commit}..HEAD", "--", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return int(found.stdout) if found.returncode == 0 else None


if __name__ == "__main__":
    PAGE.write_text(benchmarks_page(), encoding="utf-8")

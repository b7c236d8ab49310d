"""What the benchmarks share: options, fair timing, the table, the JSON, kept results.

A benchmark is a script: its own folder comes first on Python's path, so it imports this module as
`_harness`, and before TensorFlow.
"""

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
PUBLIC_DATA = ROOT.parent / "shared" / "data"
# The code that the figures of a trained model depend on most; see `benchmark`.
TRAINED = (
    "tfrs_twotower/data",
    "tfrs_twotower/evaluation",
    "tfrs_twotower/features",
    "tfrs_twotower/losses",
    "tfrs_twotower/models",
    "tfrs_twotower/training",
)
TABLE_WIDTH = 120  # Where stdout is no terminal.


@dataclass(frozen=True)
class Measurement:
    """One measured thing, perhaps beside another one of the same run.

    `ratio`, where it is not given, is that of the two values: more is better.
    """

    name: str
    value: float
    unit: str
    versus: str | None = None
    versus_value: float | None = None
    ratio: float | None = None  # How many times better than what it was measured beside.

    def as_dict(self) -> dict[str, Any]:
        """The measurement as the JSON holds it."""
        ratio = self.ratio
        if ratio is None and self.versus_value is not None:
            ratio = self.value / self.versus_value
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "versus": self.versus,
            "ratio": ratio,
        }


def benchmark(
    *,
    code: Sequence[str],
    data: str | None = None,
    flags: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    settings: bool = False,
) -> Callable[..., Callable[[], None]]:
    """Turns a function that measures into a command with the options of every benchmark.

    The function is called with `quick` and, if `data` names a public data set, with the folder of
    it as `data`; it returns a list of measurements.

    Args:
        code: Paths of the code that the figures depend on most, relative to the project: where it
            has changed since, the figures kept by `--record` are old.
        data: Folder name of a public data set; None for a benchmark that makes its own data.
        flags: Further options by the name of the argument they become, with their help.
        numbers: Likewise options that take a number; 0 where they are left out.
        settings: Whether there is `--set KEY=VALUE`, the argument `settings`: changes to the
            config that the benchmark trains.
    """

    def command(measure: Callable[..., list[Measurement]]) -> Callable[[], None]:
        def run() -> None:
            description = sys.modules[measure.__module__].__doc__ or ""
            parser = argparse.ArgumentParser(
                description=description, formatter_class=argparse.RawDescriptionHelpFormatter
            )
            parser.add_argument("--quick", action="store_true", help="end within two minutes")
            parser.add_argument("--data", type=Path, help="folder of the public data set")
            parser.add_argument("--json", type=Path, help="file to write the measurements to")
            parser.add_argument(
                "--record",
                nargs="?",
                metavar="NAME",
                const=Path(sys.argv[0]).stem,
                help="keep the measurements as benchmarks/results/NAME.json, by default under the "
                "name of the script, for docs/benchmarks.md",
            )
            for name, text in (flags or {}).items():
                parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=text)
            for name, text in (numbers or {}).items():
                parser.add_argument(
                    f"--{name.replace('_', '-')}", type=float, default=0.0, help=text
                )
            if settings:
                parser.add_argument(
                    "--set",
                    dest="settings",
                    metavar="KEY=VALUE",
                    action="append",
                    default=[],
                    help="change the config, for example loss.temperature=0.1; repeat for more",
                )
            options = parser.parse_args()
            if options.record and options.quick:
                parser.error("--record keeps the figures of the long form: leave --quick out")
            arguments: dict[str, Any] = {"quick": options.quick}
            further = [*(flags or {}), *(numbers or {}), *(["settings"] if settings else [])]
            arguments |= {name: getattr(options, name) for name in further}
            if data is not None:
                folder = options.data or PUBLIC_DATA / data
                if not folder.is_dir():
                    parser.error(f"no folder {folder}: name that of {data} with --data")
                arguments["data"] = folder
            found = measure(**arguments)
            _report(description.splitlines()[0], found, options.json)
            if options.record:
                _record(RESULTS / f"{options.record}.json", code, found)

        return run

    return command


def alternate(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Runs contestants in turns, so that what else the machine does strikes all alike.

    Args:
        contestants: What to run, by name; each must wait for its own result.
        rounds: How often each is measured.
        warm_up: Calls before that are not measured.

    Returns:
        Seconds of each run, by name, in the order of the rounds.
    """
    for run in contestants.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def milliseconds(
    seconds: Mapping[str, list[float]], name: str, versus: str | None = None, *, label: str = ""
) -> Measurement:
    """The median time of a contestant, beside another one.

    Args:
        seconds: What `alternate` measured.
        name: The contestant.
        versus: Another one; the ratio is the median over the rounds of how many times as long it
            took.
        label: Put before both names.
    """
    median = statistics.median(seconds[name]) * 1e3
    if versus is None:
        return Measurement(label + name, median, "ms")
    rounds = zip(seconds[versus], seconds[name], strict=True)
    ratio = statistics.median(other / own for other, own in rounds)
    return Measurement(label + name, median, "ms", label + versus, ratio=ratio)


def _report(title: str, measurements: list[Measurement], file: Path | None) -> None:
    table = Table(title=title, title_justify="left")
    for heading in ("measured", "value", "unit", "beside", "times better"):
        table.add_column(heading, justify="right" if heading.startswith(("v", "t")) else "left")
    found = [one.as_dict() for one in measurements]
    for one in found:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
        table.add_row(one["name"], f"{one['value']:,.4g}", one["unit"], one["versus"] or "", ratio)
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _record(file: Path, code: Sequence[str], measurements: list[Measurement]) -> None:
    """Keeps measurements with what tells where they come from."""
    words = [word for word in sys.argv[1:] if not word.startswith("--record")]
    if "--record" in sys.argv and file.stem in words:
        words.remove(file.stem)
    kept = {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "machine": _machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "code": list(code),
        "measurements": [one.as_dict() for one in measurements],
    }
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str:
    """The commit, "-dirty" where tracked files differ from it, but for what was measured before."""

    def git(*words: str) -> str:
        command = ["git", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    apart = f":(exclude){RESULTS.relative_to(ROOT)}"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", apart)
    return git("describe", "--always") + ("-dirty" if changed else "")


def _machine() -> str:
    """The cores and the processor's name."""
    try:
        model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        model = None
    return f"{os.cpu_count()} cores, {model[1].strip() if model else platform.machine()}"

"""What workers tell the launcher: plain mappings that merge in any order to the same report."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.output import STAGING, Run, WrittenFile

Summary = dict[str, Any]
"""Leaves are counts (added), pairs under a key `range` (widened), lists (joined), and texts."""

RANGE = "range"
WRITTEN = "written"


def written_summary(files: Mapping[str, Iterable[WrittenFile]]) -> str:
    """The summary, as JSON, of files that were written, by what they hold."""
    return json.dumps({WRITTEN: {name: list(group) for name, group in files.items()}})


def written_files(report: Summary) -> dict[str, list[WrittenFile]]:
    """The files that a report names, by what they hold."""
    written = report.get(WRITTEN, {})
    return {name: [WrittenFile(*file) for file in group] for name, group in written.items()}


class MergeSummaries(beam.CombineFn):
    """Merges nested summaries that come as JSON; gives their union as JSON, keys and lists sorted.

    Integers at the same place are added, lists joined, and the two numbers under a key `range`
    widened; a text stands in one summary only.
    """

    def create_accumulator(self) -> Summary:
        """Nothing counted."""
        return {}

    def add_input(self, merged: Summary, summary: str) -> Summary:
        """Adds a summary."""
        _add(merged, json.loads(summary))
        return merged

    def merge_accumulators(self, accumulators: Iterable[Summary]) -> Summary:
        """Adds what was merged apart."""
        merged: Summary = {}
        for accumulator in accumulators:
            _add(merged, accumulator)
        return merged

    def extract_output(self, merged: Summary) -> str:
        """The whole as JSON."""
        return json.dumps(_sorted(merged), sort_keys=True)


def _add(into: Summary, summary: Summary) -> None:
    for key, value in summary.items():
        if key not in into:
            # A copy: what is added to it must not show in the summary.
            into[key] = json.loads(json.dumps(value))
        elif key == RANGE:
            low, high = into[key]
            into[key] = [min(low, value[0]), max(high, value[1])]
        elif isinstance(value, dict):
            _add(into[key], value)
        else:
            into[key] += value


def _sorted(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _sorted(part, name) for name, part in value.items()}
    return sorted(value) if isinstance(value, list) and key != RANGE else value


class WriteReport(beam.PTransform[PCollection[str], PCollection[None]]):
    """Merges all summaries into a report, which the launcher reads with `read_report`."""

    def __init__(self, run: Run) -> None:
        """Takes the run."""
        super().__init__()
        self._run = run

    def expand(self, summaries: PCollection[str]) -> PCollection[None]:
        """Takes summaries as JSON."""
        return (
            summaries
            | "Merge" >> beam.CombineGlobally(MergeSummaries())
            | "Write" >> beam.Map(_write_report, self._run)
        )


def _write_report(report: str, run: Run) -> None:
    data = report.encode()
    name = f"report-{hashlib.sha256(data).hexdigest()}"
    filesystem.write_bytes(run.staged_path(name, ".json"), data)


def read_report(run: Run) -> Summary:
    """The report of a job that has ended.

    The step may have been tried more than once. Each of its reports names files that are whole, so
    any will do; one that was cut short does not have the digest of its name.
    """
    for path, _ in filesystem.match(join(run.folder, STAGING, "report-*")):
        data = filesystem.read_bytes(path)
        if hashlib.sha256(data).hexdigest() in path:
            return dict(json.loads(data))
    raise RuntimeError(f"the job ended without a report in {run.folder}")

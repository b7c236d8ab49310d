"""The gate before a release: a version beside the one that is served, go or no-go with reasons."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tfrs_twotower.features.raw_inputs import query_inputs
from tfrs_twotower.index.memory import available_bytes, readable
from tfrs_twotower.publishing import server_config
from tfrs_twotower.publishing.models_folder import (
    asked_model,
    models_of,
    read_candidates,
    read_config,
    read_model_manifest,
)
from tfrs_twotower.publishing.saved_model_reader import LoadedSignature
from tfrs_twotower.publishing.server_config import STABLE
from tfrs_twotower.schema.models_layout import QUERIES
from tfrs_twotower.schema.prepared import CANDIDATE_ID
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd

NUM_QUERIES, NUM_TIMED = 200, 50
METRIC = "recall_at_10"


@dataclass(frozen=True)
class Limits:
    """What a version may differ by from the one that is served."""

    min_overlap: float = 0.2  # Of the answers, candidates of both versions counted.
    min_overlap_same_towers: float = 0.8  # After a refresh.
    max_metric_drop: float = 0.05  # Relative, in any slice of the queries.
    max_recall_drop: float = 0.02  # Of the index against exact search.
    min_coverage_ratio: float = 0.5  # Distinct candidates answered, against the version served.
    max_latency_ratio: float = 2.0
    latency_floor_ms: float = 5.0  # Below it no latency is too long.


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    name: str
    served: str  # Of the version that is served; "" without one.
    new: str
    reason: str  # Why it is a no-go; "" where it is none.


@dataclass(frozen=True, repr=False)
class Gate(Tabular):
    """The comparison of a version with the one that is served."""

    version: int
    served_version: int | None
    checks: list[Check]

    @property
    def title(self) -> str:
        """Go or no-go, with the reasons."""
        found = "go" if self.is_go else f"no-go: {'; '.join(self.reasons)}"
        return f"version {self.version}: {found}"

    def to_frame(self) -> "pd.DataFrame":
        """A row a check: what the served and the new version have, and the reason of a no-go."""
        import pandas as pd

        rows = [(check.name, check.served, check.new, check.reason) for check in self.checks]
        return pd.DataFrame(rows, columns=["check", "served", "new", "reason"]).set_index("check")

    @property
    def is_go(self) -> bool:
        """Whether nothing speaks against the release."""
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """What speaks against it."""
        return [check.reason for check in self.checks if check.reason]


def release_gate(models: str | Path, version: int, limits: Limits | None = None) -> Gate:
    """Compares a version with the stable one.

    Args:
        models: The models folder.
        version: That is to be released.
        limits: What is a no-go.

    Raises:
        UserError: If a manifest is missing.
    """
    models, limits = Path(models), limits or Limits()
    served = server_config.read_labels(models).get(STABLE)
    served = None if served == version else served
    checks = [_memory(models, version, served)]
    checks += _metrics(models, version, served, limits)
    if served is not None:
        checks += _answers(models, version, served, limits)
    return Gate(version, served, checks)


def _memory(models: Path, version: int, served: int | None) -> Check:
    """A server holds the old version until the new one has warmed up."""

    def needed(number: int) -> int:
        return sum(
            int(read_model_manifest(models, name, number)["memory_bytes"])
            for name in models_of(models, number)
        )

    new, old = needed(version), needed(served) if served is not None else 0
    available = available_bytes()
    reason = ""
    if available is not None and new + old > available:
        reason = (
            f"both versions take {readable(new + old)} while they are swapped, "
            f"{readable(available)} are free here"
        )
    return Check("memory", readable(old) if old else "", readable(new), reason)


def _metrics(models: Path, version: int, served: int | None, limits: Limits) -> Iterator[Check]:
    """Of the validation split; after a refresh those in the manifest are of the version before."""
    manifest = _manifest(models, version)
    if manifest.get("origin") == "refresh":
        reason = f"not measured: refreshed from version {manifest['base_version']}"
        yield Check(METRIC, "", reason, "")
        return
    new = _measured(models, version)
    old = _measured(models, served) if served is not None else {}
    for part, values in new.get("model", {}).items():
        value = values.get(METRIC)
        popular = new.get("popularity", {}).get(part, {}).get(METRIC)
        before = old.get("model", {}).get(part, {}).get(METRIC)
        if value is None:
            continue
        reason = metric_against(part, value, before, popular, limits)
        shown = "" if before is None else f"{before:.4f}"
        yield Check(f"{METRIC}, {part}", shown, f"{value:.4f}", reason)


def metric_against(
    part: str, value: float, before: float | None, popular: float | None, limits: Limits
) -> str:
    """What the gate has against `METRIC` of a new model.

    Args:
        part: Of the queries.
        value: Of the new model.
        before: Of the served one, if it was measured.
        popular: Of popularity, likewise.
        limits: What is a no-go.

    Returns:
        The reason for a no-go; "" where there is none.
    """
    if before is not None and value < before * (1.0 - limits.max_metric_drop):
        drop = 1.0 - value / before
        return f"{METRIC} of {part} queries falls by {drop:.0%}, {before:.4f} to {value:.4f}"
    if part == "all" and popular is not None and value < popular:
        return f"{METRIC} {value:.4f} is below popularity, {popular:.4f}"
    return ""


def _measured(models: Path, version: int) -> dict[str, Any]:
    """Metrics by system, slice and name; empty where the run did not validate."""
    measured = _manifest(models, version).get("metrics") or {}
    return dict(measured.get("metrics", {}))


def _answers(models: Path, version: int, served: int, limits: Limits) -> Iterator[Check]:
    manifests = {number: _manifest(models, number) for number in (version, served)}
    new_recall, old_recall = (
        (manifests[number].get("recall") or {}).get("mean") for number in (version, served)
    )
    if new_recall is not None and old_recall is not None:
        reason = ""
        if new_recall < old_recall - limits.max_recall_drop:
            reason = (
                f"the index finds {new_recall:.3f} of the exact answers, {old_recall:.3f} before"
            )
        yield Check("recall of the index", f"{old_recall:.3f}", f"{new_recall:.3f}", reason)

    queries = _some_queries(models, version)
    new, old = (_Answers(models, number, queries) for number in (version, served))
    overlaps = new.overlaps(old)
    digests = {manifest["towers_digest"] for manifest in manifests.values()}
    least = limits.min_overlap_same_towers if len(digests) == 1 else limits.min_overlap
    for part, chosen in _parts(models, version, queries).items():
        comparable = overlaps[chosen & ~np.isnan(overlaps)]
        overlap = float(comparable.mean()) if len(comparable) else 0.0
        reason = ""
        if overlap < least:
            reason = f"only {overlap:.0%} of the answers{part} are those of version {served}"
        yield Check(f"overlap@{new.k}{part}", "", f"{overlap:.2f}", reason)

    reason = ""
    if new.coverage < old.coverage * limits.min_coverage_ratio:
        reason = f"{new.coverage} distinct candidates are answered, {old.coverage} before"
    yield Check("distinct answers", str(old.coverage), str(new.coverage), reason)

    reason = ""
    new_ms, old_ms = _latencies_ms(new, old)
    if new_ms > max(old_ms * limits.max_latency_ratio, limits.latency_floor_ms):
        reason = f"a query takes {new_ms:.1f} ms, {old_ms:.1f} ms before"
    yield Check("latency, ms", f"{old_ms:.2f}", f"{new_ms:.2f}", reason)


def _manifest(models: Path, version: int) -> dict[str, Any]:
    return read_model_manifest(models, asked_model(models, version), version)


class _Answers:
    """What a version answers to some queries, and how fast."""

    def __init__(self, models: Path, version: int, queries: pa.Table) -> None:
        self._model = LoadedSignature(models / asked_model(models, version) / str(version))
        self._inputs = query_inputs(read_config(models, version).query_features, queries)
        self.ids = self._model(self._inputs)["candidate_ids"].numpy().astype(np.str_)
        self.k = self.ids.shape[1]
        self.corpus = read_candidates(models, version, [CANDIDATE_ID])[CANDIDATE_ID].to_numpy(str)
        self.coverage = len(np.unique(self.ids[self.ids != ""]))

    def time_s(self, number: int) -> float:
        """How long one of the queries takes by itself."""
        one = {name: values[number : number + 1] for name, values in self._inputs.items()}
        started = time.perf_counter()
        self._model(one)
        return time.perf_counter() - started

    def overlaps(self, other: "_Answers") -> npt.NDArray[np.float64]:
        """`[num_queries]` share of the other's answers that are here, of those in both corpora.

        NaN where both corpora have none of them.
        """
        shares = np.full(len(self.ids), np.nan)
        for row, (mine, theirs) in enumerate(zip(self.ids, other.ids, strict=True)):
            wanted = theirs[np.isin(theirs, self.corpus)]
            if len(wanted):
                shares[row] = np.isin(wanted, mine).mean()
        return shares


def _latencies_ms(new: _Answers, old: _Answers) -> tuple[float, float]:
    """The median time of a query by itself, in milliseconds.

    The versions take turns: what else the machine does slows both.
    """
    numbers = range(min(NUM_TIMED, len(new.ids)))
    times_s = np.array([(new.time_s(number), old.time_s(number)) for number in numbers])
    new_ms, old_ms = 1000 * np.median(times_s, axis=0)
    return float(new_ms), float(old_ms)


def _parts(models: Path, version: int, queries: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """All queries and, for models with a history, those with and without one."""
    parts = {"": np.ones(len(queries), np.bool_)}
    config = read_config(models, version)
    if config.history is not None:
        lengths = pc.list_value_length(queries.column(config.history.name))
        has_history = pc.fill_null(lengths, 0).to_numpy() > 0
        parts[" for queries with a history"] = has_history
        parts[" for queries without a history"] = ~has_history
    return {part: chosen for part, chosen in parts.items() if chosen.any()}


def _some_queries(models: Path, version: int) -> pa.Table:
    """Known queries, spread over the order of their ids."""
    features = list(read_config(models, version).features.query)
    table = ds.dataset(models / QUERIES / str(version)).to_table(columns=features)
    return table.take(np.unique(np.linspace(0, len(table) - 1, NUM_QUERIES).astype(np.int64)))

"""The table that closes a job: what became of every record."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from tfrs_twotower.schema import SPLITS
from tfrs_twotower.schema.hints import left_out


def closing_table(manifest: dict[str, Any]) -> RenderableType:
    """What a manifest says, for people: records, splits, queries and candidates."""
    counts = manifest["counts"]
    records = Table("records of the interactions", "count", title="Prepared")
    records.columns[1].justify = "right"
    records.add_row("read", f"{counts['read']:,}")
    examples = counts["examples"]
    records.add_row("written", f"{sum(sum(split.values()) for split in examples.values()):,}")
    for what in ("rejected", "filtered"):
        for reason, count in sorted(counts[what].items()):
            records.add_row(f"{what}: {reason}", f"{count:,}")
    splits = Table("", *SPLITS)
    for column in splits.columns[1:]:
        column.justify = "right"
    for label in ("positives", "negatives"):
        splits.add_row(label, *(f"{examples[split][label]:,}" for split in SPLITS))
    ranges = manifest["time_ranges"]
    for name, end in (("first (UTC)", 0), ("last (UTC)", 1)):
        splits.add_row(name, *(_moment(ranges.get(split), end) for split in SPLITS))
    for kind in ("queries", "candidates"):
        splits.add_row(kind, *(_warm(manifest["warm_cold"][split], kind) for split in SPLITS))
    total = f"{manifest['num_queries']:,} queries, {manifest['corpus_size']:,} candidates in all"
    return Group(records, splits, total, *left_out(manifest))


def _moment(seconds: list[int] | None, end: int) -> str:
    if seconds is None:
        return ""
    return datetime.fromtimestamp(seconds[end], UTC).strftime("%Y-%m-%d %H:%M")


def _warm(of_split: dict[str, int], kind: str) -> str:
    warm, cold = of_split[f"warm_{kind}"], of_split[f"cold_{kind}"]
    share = f" ({cold / (warm + cold):.1%} cold)" if cold else ""
    return f"{warm + cold:,}{share}"

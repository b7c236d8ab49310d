"""What workers count, as plain mappings that merge in any order to the same result."""

import json
from collections.abc import Iterable
from typing import Any

Summary = dict[str, Any]
"""Leaves are counts (added), `min`/`max` pairs under a key `range`, and lists (joined)."""

RANGE = "range"


def merge(summaries: Iterable[Summary]) -> Summary:
    """Merges nested summaries.

    Args:
        summaries: Mappings of mappings; integers at the same place are added, lists joined and
            sorted, and the two numbers under a key `range` widened.

    Returns:
        Their union, keys sorted.
    """
    merged: Summary = {}
    for summary in summaries:
        _add(merged, summary)
    return dict(json.loads(json.dumps(merged, sort_keys=True)))


def _add(into: Summary, summary: Summary) -> None:
    for key, value in summary.items():
        if key not in into:
            into[key] = json.loads(json.dumps(value))
        elif key == RANGE:
            low, high = into[key]
            into[key] = [min(low, value[0]), max(high, value[1])]
        elif isinstance(value, dict):
            _add(into[key], value)
        elif isinstance(value, list):
            into[key] = sorted(into[key] + value)
        else:
            into[key] += value

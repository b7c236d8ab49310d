"""Comparing what prepared records depend on: `Config.record_schema` of two configs."""

import hashlib
import json
from typing import Any


def fingerprint(record_schema: dict[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of a record schema."""
    canonical = json.dumps(record_schema, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def differences(
    left: dict[str, Any], right: dict[str, Any], path: str = ""
) -> list[tuple[str, Any, Any]]:
    """Where two nested mappings differ, as (path, left value, right value), None if absent."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key), right.get(key)
        where = f"{path}.{key}" if path else str(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, where)
        elif a != b:
            found.append((where, a, b))
    return found

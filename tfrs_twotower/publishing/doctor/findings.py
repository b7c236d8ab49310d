"""The result of a check of the doctor."""

from dataclasses import dataclass
from typing import Literal

EXPORT_AGAIN = "make a new version with `twotower export`"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    level: Literal["ok", "warning", "error"]
    where: str
    what: str
    cure: str = ""

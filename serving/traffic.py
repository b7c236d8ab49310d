"""Which version of the models a query meets: the share of the canary, by a hash of its id."""

import hashlib

from tfrs_twotower.schema import UsageError

STABLE, CANARY = "stable", "canary"


def label_of(query_id: str, canary_share: float) -> str:
    """The version label for a query's requests, the `version_label` of a `RetrievalClient`.

    The same id has the same label in every process, and who is in a small share stays in a larger.

    Args:
        query_id: For example the id of the user.
        canary_share: Share of the ids that meet the canary, 0 to 1.

    Raises:
        UsageError: If the share is out of range.
    """
    if not 0.0 <= canary_share <= 1.0:
        raise UsageError(f"canary share {canary_share}: expected a share between 0 and 1")
    digest = hashlib.blake2b(query_id.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return CANARY if place < canary_share else STABLE

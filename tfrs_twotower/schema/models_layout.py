"""The models folder: the names of what `twotower export` writes, and which of it to use.

`retrieval`, `retrieval_stock` and `retrieval_exact` answer the same requests. Of those that a
version has, the first in this order is preferred. A config may do without `retrieval`
(`export.retrieval: false`, as every scoring layer must); `retrieval_stock` is made of a corpus that
is not searched by brute force. `similarity` is made where a config wants it (`export.similarity`).
"""

from collections.abc import Callable, Collection, Mapping

RETRIEVAL, RETRIEVAL_STOCK = "retrieval", "retrieval_stock"
RETRIEVAL_EXACT = "retrieval_exact"
QUERY_TOWER, CANDIDATE_TOWER = "query_tower", "candidate_tower"
SIMILARITY = "similarity"
CANDIDATES, QUERIES = "candidates", "queries"

EXTRA_ASSETS = "assets.extra"
TWOTOWER_CONFIG = "twotower.yaml"  # Of the candidate tower: the config of its run.
QUERY_KEY = b"query_key"  # In the metadata of `queries`: its column of ids.
# Column of `queries` beside the features, named as the input of `recommend` that it fills in: the
# known positives. No feature can have the name. Versions where repeats are wanted lack it, and
# those of before it was written.
EXCLUDE_IDS = "exclude_ids"

RETRIEVAL_MODELS = (RETRIEVAL, RETRIEVAL_STOCK, RETRIEVAL_EXACT)  # The preferred one first.


def preferred_model(names: Collection[str]) -> str:
    """The preferred retrieval model of a version; the last of them where it has none.

    Args:
        names: The models of the version.
    """
    return next((name for name in RETRIEVAL_MODELS if name in names), RETRIEVAL_MODELS[-1])


def newest_whole_version(
    found: Mapping[str, Collection[int]], wants_retrieval: Callable[[int], bool]
) -> int | None:
    """The newest version that is published as a whole; None where there is none.

    `retrieval` is published last: a version without it is whole where its config wants none.

    Args:
        found: The versions of the retrieval models, by model.
        wants_retrieval: Whether the config of a version wants `retrieval`.
    """
    with_retrieval, others = set(found[RETRIEVAL]), set(found[RETRIEVAL_EXACT])
    numbers = sorted(with_retrieval | others, reverse=True)
    return next((n for n in numbers if n in with_retrieval or not wants_retrieval(n)), None)

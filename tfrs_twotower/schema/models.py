"""The models folder: what `twotower export` writes and everybody asks, by name.

`retrieval` and `retrieval_exact` answer the same requests. Where a version has both, `retrieval` is
the one to ask; a config may want none of it (`export.retrieval: false`, as every scoring layer
must), and then `retrieval_exact` is.
"""

from collections.abc import Callable, Collection, Mapping

RETRIEVAL, RETRIEVAL_EXACT = "retrieval", "retrieval_exact"
QUERY_TOWER, CANDIDATE_TOWER = "query_tower", "candidate_tower"
CANDIDATES, QUERIES = "candidates", "queries"

EXTRA_ASSETS = "assets.extra"
TWOTOWER_CONFIG = "twotower.yaml"  # Of the candidate tower: what it was trained by.
QUERY_KEY = b"query_key"  # In the metadata of `queries`: its column of ids.

# The first of them that is there is asked.
ASKED_IN_ORDER = (RETRIEVAL, RETRIEVAL_EXACT)


def asked(names: Collection[str]) -> str:
    """The one of some models that answers requests; the last choice where none of them does.

    Args:
        names: Of the models that are there.
    """
    return next((name for name in ASKED_IN_ORDER if name in names), ASKED_IN_ORDER[-1])


def newest(
    found: Mapping[str, Collection[int]], wants_retrieval: Callable[[int], bool]
) -> int | None:
    """The newest version that is there as a whole.

    `retrieval` is published last: a version that has none is whole where its config wants none.

    Args:
        found: The versions of `retrieval` and `retrieval_exact`, by model.
        wants_retrieval: Whether the config of a version wants `retrieval`.
    """
    with_retrieval, others = set(found[RETRIEVAL]), set(found[RETRIEVAL_EXACT])
    numbers = sorted(with_retrieval | others, reverse=True)
    return next((n for n in numbers if n in with_retrieval or not wants_retrieval(n)), None)

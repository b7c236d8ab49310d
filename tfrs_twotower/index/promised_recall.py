"""A recall that can be promised: confirmed on queries that tuning has not seen.

The cheapest of many settings reaches its target on the tuning queries in part by chance, so a
bound that is measured there does not hold with the confidence that it names. Held-out queries are
therefore split: `tune` chooses on one part, and on the other part a fixed sequence of tests
confirms (Maurer, Hothorn & Lehmacher 1995; Angelopoulos et al. 2021, "Learn then Test"). The
settings and their order are known before the second part is looked at: the one that was
chosen and ever dearer ones. From the dearest on each is tested at the full level, until the first
that fails; the last that passed is served. A false promise needs the first setting below the
target in that order to pass its one test, which happens in at most 5 % of cases, however many
settings there are.
"""

import hashlib
from collections.abc import Callable

import numpy as np

from tfrs_twotower.index.ivf import IvfIndex
from tfrs_twotower.index.recall import (
    CONFIDENCE,
    Floats,
    Recall,
    Shares,
    exact_scores,
    found_share,
    least_queries,
    recall_lower_bound,
)
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.tuning import Tuning, trial_search
from tfrs_twotower.schema import UserError


def split_queries(queries: Floats, target_recall: float) -> tuple[Floats, Floats]:
    """Splits held-out queries in two halves, in the order of their hashes.

    The same queries are split alike in every order and on every machine.

    Args:
        queries: `[num_queries, embedding_dim]` float32.
        target_recall: What is to be promised.

    Returns:
        The queries to tune on and the queries to confirm on; of an odd number, the one more.

    Raises:
        UserError: If the halves are too small to reach the target even if everything is found.
    """
    least = 2 * least_queries(target_recall)
    if len(queries) < least:
        raise UserError(
            f"a target recall of {target_recall} takes at least {least} held-out queries, one half "
            f"to tune on and the other to confirm the recall on, and there are {len(queries)}: "
            "validate on a larger part of the data (`split`), or lower the target recall"
        )
    digests = [hashlib.sha256(np.ascontiguousarray(query).data).digest() for query in queries]
    order = sorted(range(len(queries)), key=digests.__getitem__)
    half = len(queries) // 2
    return queries[order[:half]], queries[order[half:]]


def promise_recall(index: ScannIndex | IvfIndex, tuning: Tuning, queries: Floats) -> Recall:
    """Makes an index search so that its target recall holds for queries that it was not tuned on.

    Args:
        index: What `tune` or `tune_ivf` returned; from now on it searches by the cheapest setting
            of `tuning.ladder` that is confirmed.
        tuning: How it was found.
        queries: `[num_queries, embedding_dim]`; see `split_queries`.

    Returns:
        What is promised: the target as the lower bound, and the mean on these queries.

    Raises:
        UserError: If not even the dearest setting of the ladder reaches the target.
    """
    worst_scores = exact_scores(index, queries, tuning.at)
    search = trial_search(index)

    def shares_of(rung: int) -> Shares:
        counts = tuning.ladder[rung].counts
        return found_share(search(queries, tuning.at, *counts), worst_scores)

    confirmed = last_confirmed(shares_of, len(tuning.ladder), tuning.target_recall)
    if confirmed is None:
        raise UserError(
            f"recall {tuning.target_recall} at {tuning.at} is reached on the "
            f"{tuning.num_queries} held-out queries that the index was tuned on, but not with "
            f"{CONFIDENCE:.0%} confidence on {len(queries)} others: validate on a larger part of "
            "the data (`split`), or lower the target recall"
        )
    rung, shares = confirmed
    index.search_with(tuning.ladder[rung])
    mean = float(shares.mean())
    return Recall(mean, tuning.target_recall, tuning.at, len(queries), tuning.num_queries)


def last_confirmed(
    shares_of: Callable[[int], Shares], num_settings: int, target_recall: float
) -> tuple[int, Shares] | None:
    """The fixed sequence of tests, from the last setting to the first.

    Args:
        shares_of: Number of a setting -> `[num_queries]` shares of the exact answers that it finds.
        num_settings: How many there are, 1 or more; the order must not depend on the shares.
        target_recall: What a lower bound must reach to pass.

    Returns:
        The number of the last setting that passed before one failed, and its shares; None: none.
    """
    confirmed = None
    for number in reversed(range(num_settings)):
        shares = shares_of(number)
        if recall_lower_bound(shares) < target_recall:
            break
        confirmed = number, shares
    return confirmed

"""A candidate: its neighbours, its popularity, and the users that get it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfrs_twotower.evaluation.explore.answers import excluded, known_selection, query_of, unit_rows
from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion
from tfrs_twotower.evaluation.insights import evenly_spaced

NUM_NEIGHBOURS = 10
SAMPLE, SAMPLED_K, AT_ONCE = 200, 100, 50
SHORT = 10


@dataclass(frozen=True)
class Neighbour:
    """A candidate near another one."""

    row: int
    title: str
    similarity: float


@dataclass(frozen=True)
class Popularity:
    """Where a candidate stands by the number of queries that have it among their positives."""

    num_queries: int
    rank: int  # From 1; equal ones by row.
    corpus_size: int

    @property
    def tenth(self) -> int:
        """From 1, the most popular tenth of the corpus, to 10."""
        return 1 + (self.rank - 1) * 10 // self.corpus_size


@dataclass(frozen=True)
class SampledLists:
    """The recommendations of a sample of queries, with nothing known of the context.

    Attributes:
        query_ids: Of the sample.
        candidate_ids: A list a query, best first.
        k: How many were asked for.
    """

    query_ids: list[str]
    candidate_ids: list[list[str]]
    k: int

    def ranks_of(self, candidate_id: str) -> list[tuple[str, int]]:
        """The queries that get a candidate and its rank from 1, the best rank first."""
        found = [
            (1 + ids.index(candidate_id), number)
            for number, ids in enumerate(self.candidate_ids)
            if candidate_id in ids
        ]
        return [(self.query_ids[number], rank) for rank, number in sorted(found)]


def neighbours(version: ExploredVersion, row: int, num: int = NUM_NEIGHBOURS) -> list[Neighbour]:
    """The candidates with the largest cosine to one, itself left out; equal ones by row."""
    own = unit_rows(version.embeddings[row : row + 1])[0]
    lengths = np.linalg.norm(version.embeddings, axis=1)
    similarities = version.embeddings @ own / np.maximum(lengths, 1e-12)
    similarities[row] = -np.inf
    num = min(num, len(similarities) - 1)
    if num < 1:
        return []
    # Ties at the border are all kept, so that their order and not the partition decides.
    least = np.partition(similarities, -num)[-num]
    near = np.flatnonzero(similarities >= least)
    near = near[np.argsort(-similarities[near], kind="stable")][:num]
    return [
        Neighbour(place, version.titles[place], float(similarities[place]))
        for place in near.tolist()
    ]


def popularity(version: ExploredVersion, row: int) -> Popularity:
    """The popularity of a candidate."""
    counts = version.num_queries
    ahead = int((counts > counts[row]).sum()) + int((counts[:row] == counts[row]).sum())
    return Popularity(int(counts[row]), 1 + ahead, len(counts))


def sampled_ids(version: ExploredVersion, num_queries: int = SAMPLE) -> list[str]:
    """At most `num_queries` ids of queries, evenly spaced in the version's table."""
    if not len(version.queries):
        return []
    places = evenly_spaced(len(version.queries), num_queries).tolist()
    return [version.query_id(place) for place in places]


def sampled_lists(
    version: ExploredVersion, query_ids: Sequence[str], *, k: int = SAMPLED_K
) -> SampledLists:
    """Asks a version for known queries.

    Args:
        version: Which is asked.
        query_ids: Those that it does not know are asked as new ones.
        k: How many candidates each.
    """
    k = min(k, version.config.export.max_k, len(version.candidates))
    found: list[list[str]] = []
    for first in range(0, len(query_ids), AT_ONCE):
        chosen = [known_selection(version, name) for name in query_ids[first : first + AT_ONCE]]
        answers = version.recommender.recommend(
            [query_of(version, one) for one in chosen],
            k,
            exclude_ids=[excluded(version, one) for one in chosen],
        )
        found.extend(list(answer.candidate_ids) for answer in answers)
    return SampledLists(list(query_ids), found, k)


def mean_overlap(before: SampledLists, after: SampledLists, at: int = SHORT) -> float:
    """The share of the first `at` candidates that two lists have both, a mean over queries.

    Queries without a list in either count as equal.
    """
    shares = []
    for one, other in zip(before.candidate_ids, after.candidate_ids, strict=True):
        longest = max(len(one[:at]), len(other[:at]))
        shares.append(len({*one[:at]} & {*other[:at]}) / longest if longest else 1.0)
    return float(np.mean(shares)) if shares else 1.0

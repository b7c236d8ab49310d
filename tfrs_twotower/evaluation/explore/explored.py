"""What the sessions of a page share: the versions, and the lists of a sample of users."""

from collections.abc import Sequence
from functools import cached_property

from tfrs_twotower.evaluation.explore import answers, candidates
from tfrs_twotower.evaluation.explore.answers import Selection
from tfrs_twotower.evaluation.explore.explored_version import ExploredVersion


class Explored:
    """A version, and another one where two are compared."""

    def __init__(self, name: str, versions: Sequence[ExploredVersion]) -> None:
        """Names them.

        Args:
            name: Of the models folder, for the heading.
            versions: The version, and the one it is compared with.
        """
        self.name = name
        self.version = versions[0]
        self.other = versions[1] if len(versions) > 1 else None

    @cached_property
    def lists(self) -> candidates.SampledLists:
        """Of the version."""
        return candidates.sampled_lists(self.version, candidates.sampled_ids(self.version))

    @cached_property
    def other_lists(self) -> candidates.SampledLists | None:
        """Of the version it is compared with, for the same users."""
        return candidates.sampled_lists(self.other, self.lists.query_ids) if self.other else None

    def prepare(self) -> None:
        """Computes ahead what the first visitor would wait for."""
        answers.recommend(self.version, Selection())
        _ = self.version.candidate_search, self.version.query_search, self.lists, self.other_lists

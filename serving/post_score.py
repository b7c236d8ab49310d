"""A function of one's own between the scores of stored vectors and the answer.

A package names it in its metadata, so that `twotower serve --post_score NAME` finds it:

    [project.entry-points."tfrs_twotower.post_score"]
    margin = "my_shop.scores:add_margin"

It runs in our process: in the embedded server and in `SimilarityScorer`, not in TF Serving.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tfrs_twotower.schema import UsageError, UserError

GROUP = "tfrs_twotower.post_score"
CANDIDATE_IDS, SCORES = "candidate_ids", "scores"
UNKNOWN = np.finfo(np.float32).min  # The score of an unknown candidate.

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


class PostScore(Protocol):
    """Replaces scores; thread-safe, and a row must not depend on the others of its batch."""

    def __call__(
        self, candidate_ids: Array, scores: Floats, inputs: Mapping[str, Array]
    ) -> npt.ArrayLike:
        """The scores to answer with.

        Args:
            candidate_ids: `[batch, n]` text; "" where a shorter list was filled up.
            scores: `[batch, n]`, cosines; the float32 minimum of what is unknown, which stays so
                whatever is returned. A copy, to be changed at will.
            inputs: `query_id` `[batch]` text, or `query_embedding` `[batch, dim]` float32.

        Returns:
            `[batch, n]` numbers, finite.
        """


def load_post_score(name: str) -> PostScore:
    """The function that an installed package has under a name.

    Args:
        name: Of the entry point in the group `tfrs_twotower.post_score`.

    Raises:
        UsageError: If no installed package has it, or several have.
        UserError: If it cannot be imported.
    """
    found = entry_points(group=GROUP, name=name)
    if len(found) != 1:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        number = "several installed packages have" if found else "no installed package has"
        raise UsageError(f"{number} a {GROUP} entry point {name!r}: there is {known}")
    [entry_point] = found
    try:
        function: PostScore = entry_point.load()
    except Exception as error:  # Of a module that is not ours.
        raise UserError(f"cannot import {name} ({entry_point.value}): {error}") from error
    return function


def adjusted(
    post_score: PostScore, candidate_ids: Array, scores: Floats, inputs: Mapping[str, Array]
) -> Floats:
    """Scores as the function wants them, those of unknown candidates as they were.

    Raises:
        ValueError: If it returns another shape, or a score that is not finite.
    """
    is_known = scores > UNKNOWN
    found = np.asarray(post_score(candidate_ids, scores.copy(), inputs), np.float32)
    if found.shape != scores.shape or not np.isfinite(found[is_known]).all():
        raise ValueError(
            f"post_score must return {scores.shape} finite numbers, returned {found.shape}"
        )
    return np.where(is_known, found, scores)


def adjusted_outputs(
    post_score: PostScore, inputs: Mapping[str, Array], outputs: dict[str, Array]
) -> dict[str, Array]:
    """`adjusted` of what a signature of `similarity` was asked and answers."""
    scores = outputs[SCORES]
    others = {name: _text(array) for name, array in inputs.items() if name != CANDIDATE_IDS}
    # One row may stand for the whole batch.
    candidate_ids = np.broadcast_to(_text(inputs[CANDIDATE_IDS]), scores.shape)
    return {**outputs, SCORES: adjusted(post_score, candidate_ids, scores, others)}


def _text(array: Array) -> Array:
    """Bytes as text; other arrays as they are."""
    if array.dtype != object:
        return array
    texts = np.empty(array.shape, object)
    texts[...] = np.frompyfunc(lambda value: value.decode(errors="replace"), 1, 1)(array)
    return texts

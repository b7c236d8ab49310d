"""ScaNN's index of an earlier corpus, corrected by what has changed since."""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.candidate_leaves import CandidateLeaves
from tfrs_twotower.index.outside import NO_ROW, OutsideRows
from tfrs_twotower.index.parameters import IndexParameters
from tfrs_twotower.index.scann import ScannIndex

# How many times more candidates than the share of those that are gone asks for, and how many more.
MARGIN, LEAST_MARGIN = 2.0, 8


class EarlierScannIndex(CandidateIndex):
    """The index finds candidates of an earlier corpus; those that are gone are left out.

    What is new is scored for every query. A query for which the earlier index finds too few that
    are still there is answered exactly.
    """

    def __init__(
        self,
        embeddings: npt.NDArray[np.float32],
        earlier: ScannIndex,
        row_of_earlier: npt.NDArray[np.int32],
    ) -> None:
        """Joins the two.

        Args:
            embeddings: See `CandidateIndex`.
            earlier: Of the earlier corpus.
            row_of_earlier: `[earlier.num_candidates]` the row of each of its candidates in
                `embeddings`, distinct; -1: it is gone, or its embedding has changed.

        Raises:
            ValueError: See `CandidateIndex`; or if `earlier` has no tree.
        """
        super().__init__(embeddings)
        self._earlier = earlier
        self._row_of_earlier = tf.Variable(row_of_earlier, trainable=False, name="row_of_earlier")
        self._outside = OutsideRows(embeddings, row_of_earlier)
        self._num_gone = int((row_of_earlier == NO_ROW).sum())
        if earlier.parameters is None:
            raise ValueError("`earlier` must have a tree.")
        leaf_of = np.full(len(embeddings), NO_ROW, np.int32)
        is_there = row_of_earlier != NO_ROW
        leaf_of[row_of_earlier[is_there]] = earlier.leaf_of[is_there]
        self.leaves = CandidateLeaves(embeddings, leaf_of, earlier.parameters.num_leaves)

    @property
    def parameters(self) -> IndexParameters | None:
        """See `CandidateIndex`."""
        return self._earlier.parameters

    @property
    def description(self) -> dict[str, Any]:
        """See `CandidateIndex`."""
        return {
            **self._earlier.description,
            **self._outside.description,
            "num_gone": self._num_gone,
        }

    @property
    def searcher_bytes(self) -> int:
        """See `CandidateIndex`."""
        return self._earlier.searcher_bytes

    def _find(self, queries: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        size = self._earlier.num_candidates
        share = MARGIN * self._num_gone / size
        more = LEAST_MARGIN + tf.cast(tf.math.ceil(share * tf.cast(k, tf.float32)), tf.int32)
        wanted = tf.minimum(k, size)
        found = self._earlier.find_more(queries, wanted, tf.minimum(more, size - wanted))
        rows = tf.gather(tf.convert_to_tensor(self._row_of_earlier), found)
        scores = self._score(queries, tf.maximum(rows, 0))
        best, is_short = self._outside.best_of_both(queries, rows, scores, k)
        return self._completed(queries, k, best, is_short)

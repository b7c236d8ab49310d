"""The pasts of queries, cut into windows that many training examples share.

An ordered encoder says at every place of a past what was known there. So an epoch steps over
windows of pasts, and each example points to the place of the last candidate before it: every
position is trained on in one pass.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.keras import tf
from tfrs_twotower.schema.prepared import CANDIDATE_ROW, LABEL, QUERY_ROW, TIMESTAMP_S

NOTHING_BEFORE = -1


class Pasts(NamedTuple):
    """Windows over the positives of each query, and the examples that belong to each window."""

    rows: npt.NDArray[np.int32]  # [num_windows, length] candidate id rows, padding at the end
    examples: npt.NDArray[np.int64]  # [num_examples] positions of examples, by window
    places: npt.NDArray[np.int32]  # [num_examples] in the window, in the order of `examples`
    starts: npt.NDArray[np.int64]  # [num_windows + 1] where in `examples` each window begins

    @classmethod
    def of(
        cls,
        examples: dict[str, np.ndarray],
        id_rows: npt.NDArray[np.integer],
        length: int,
    ) -> "Pasts":
        """Cuts the pasts of all queries, the newest window of each as long as can be.

        Args:
            examples: Of one split: keys of the layout, one query's in the order of events where
                times are equal.
            id_rows: `[corpus_size]` vocabulary row of each candidate's id.
            length: Of a window.
        """
        num_examples = len(examples[QUERY_ROW])
        order = np.lexsort(
            (np.arange(num_examples), examples[TIMESTAMP_S], examples[QUERY_ROW])
        ).astype(np.int64)
        query_rows, candidate_rows, times = (
            examples[key][order] for key in (QUERY_ROW, CANDIDATE_ROW, TIMESTAMP_S)
        )
        is_positive = examples[LABEL][order] == 1
        of_query = np.cumsum(_changes(query_rows)) - 1
        firsts = np.flatnonzero(_changes(query_rows))
        before = np.cumsum(is_positive) - is_positive
        # Events of one moment and candidate have no before and after among them.
        moments = np.flatnonzero(_changes(query_rows, times, candidate_rows))
        of_moment = np.cumsum(_changes(query_rows, times, candidate_rows)) - 1
        known = before[moments][of_moment] - before[firsts][of_query]
        num_positives = np.bincount(of_query[is_positive], minlength=len(firsts))
        num_windows = np.maximum(-(-num_positives // length), 1)
        last_window = np.cumsum(num_windows) - 1

        def place(number: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Window and place of the number-th positive of queries."""
            size = num_positives[queries]
            from_end = (size - 1 - number) // length
            start = np.maximum(size - (from_end + 1) * length, 0)
            return last_window[queries] - from_end, number - start

        rows = np.zeros([int(num_windows.sum()), length], np.int32)
        numbers = (before - before[firsts][of_query])[is_positive]
        rows[place(numbers, of_query[is_positive])] = id_rows[candidate_rows[is_positive]]
        windows, places = place(np.maximum(known - 1, 0), of_query)
        # A query without positives has one empty window.
        windows = np.where(num_positives[of_query] > 0, windows, last_window[of_query])
        places = np.where(known > 0, places, NOTHING_BEFORE)
        by_window = np.argsort(windows, kind="stable")
        windows = windows[by_window]
        kept = np.flatnonzero(_changes(windows))
        return cls(
            rows[windows[kept]],
            order[by_window],
            places[by_window].astype(np.int32),
            np.append(kept, num_examples).astype(np.int64),
        )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows)


class PastsTable(NamedTuple):
    """`Pasts` as tensors."""

    rows: tf.Tensor
    examples: tf.Tensor
    places: tf.Tensor
    starts: tf.Tensor

    def of_windows(self, windows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What a batch of windows holds.

        Args:
            windows: `[num_windows]` int.

        Returns:
            Positions of its examples `[batch]` int64, rows of its pasts `[num_windows, length]`
            int32, and for each example its past among them and the place in it `[batch, 2]` int32.
        """
        entries = tf.ragged.range(
            tf.gather(self.starts, windows), tf.gather(self.starts, windows + 1)
        )
        places = tf.gather(self.places, entries.values)
        pasts = tf.cast(entries.value_rowids(), tf.int32)
        return (
            tf.gather(self.examples, entries.values),
            tf.gather(self.rows, windows),
            tf.stack([pasts, places], axis=1),
        )


def _changes(*keys: np.ndarray) -> npt.NDArray[np.bool_]:
    """Where in sorted arrays a run of equal values begins."""
    begins = np.ones(len(keys[0]), np.bool_)
    begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return begins

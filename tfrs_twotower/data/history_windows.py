"""The positives of each query in their order, cut into windows that training examples share.

The state of an ordered encoder at a place of a history depends on that place and those before it
alone. So an epoch steps over windows, and each example points to the place of the last candidate
before it: one pass trains on every position.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.features.encoding import PADDING_ROW
from tfrs_twotower.features.history_encoders import NOTHING_BEFORE, SharedHistories
from tfrs_twotower.keras import tf
from tfrs_twotower.schema.prepared import CANDIDATE_ROW, LABEL, QUERY_ROW, TIMESTAMP_S

# Of the matrices that a batch's histories stand in. Each runs the encoder once more, which must
# save at least this share of the places that are encoded.
MAX_WIDTHS = 4
MIN_SAVED = 0.1
_KEYS = (QUERY_ROW, CANDIDATE_ROW, TIMESTAMP_S, LABEL)


class HistoryWindows(NamedTuple):
    """Windows over the positives of each query, and the examples that belong to each window.

    A query's positives are cut from the newest end into windows of `length`, so that the newest
    window is as long as can be. With `length` 3, a query that has the positives a b c d e (their
    id rows) and an explicit negative, x, between d and e:

        events   a    b    c    d    x    e
        known    0    1    2    3    4    4     positives before the event
        window   0    0    0    1    1    1     of the last of these; rows: [a b -] [c d e]
        place   -1    0    1    0    1    1     in that window, -1: nothing before

    So c is predicted from a b, d from c alone, where its window begins, and x and e from c d.
    """

    rows: npt.NDArray[np.int32]  # [num_windows, length] candidate id rows, padding at the end
    examples: npt.NDArray[np.int64]  # [num_examples] positions of examples, by window
    places: npt.NDArray[np.int32]  # [num_examples] in the window, in the order of `examples`
    starts: npt.NDArray[np.int64]  # [num_windows + 1] where in `examples` each window begins

    @classmethod
    def of(
        cls,
        examples: dict[str, np.ndarray],
        history_rows: npt.NDArray[np.integer],
        length: int,
    ) -> "HistoryWindows":
        """Cuts the positives of all queries.

        Args:
            examples: Of one split: keys of the layout, one query's in the order of events where
                times are equal.
            history_rows: `[corpus_size]` what each candidate is in a history.
            length: Of a window.
        """
        order = _by_query_and_time(examples)
        events = _Events.of({key: examples[key][order] for key in _KEYS})
        cuts = _Cuts.of(events.num_positives, length)
        rows = np.zeros([cuts.num_windows, length], np.int32)
        is_positive = events.is_positive
        own_place = cuts.place_of(events.number[is_positive], events.query[is_positive])
        rows[own_place] = history_rows[events.candidate_rows[is_positive]]
        windows, places = cuts.place_of(np.maximum(events.known - 1, 0), events.query)
        places = np.where(events.known > 0, places, NOTHING_BEFORE)
        by_window = np.argsort(windows, kind="stable")
        windows = windows[by_window]
        # A window that no example points to is left out.
        firsts = np.flatnonzero(_changes(windows))
        return cls(
            rows[windows[firsts]],
            order[by_window],
            places[by_window].astype(np.int32),
            np.append(firsts, len(order)).astype(np.int64),
        )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.rows)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """`[num_windows]` candidates in each window."""
        return np.count_nonzero(self.rows != PADDING_ROW, axis=1).astype(np.int64)


class _Events(NamedTuple):
    """Events ordered by query, then time."""

    query: npt.NDArray[np.int64]  # [num_events] number of the query, from 0 in the order of rows
    candidate_rows: npt.NDArray[np.integer]
    is_positive: npt.NDArray[np.bool_]
    number: npt.NDArray[np.int64]  # [num_events] positives of the query before, in this order
    known: npt.NDArray[np.int64]  # [num_events] the same, but of the moment's first such event
    num_positives: npt.NDArray[np.int64]  # [num_queries]

    @classmethod
    def of(cls, ordered: dict[str, np.ndarray]) -> "_Events":
        """Counts positives; `ordered` has the keys of the layout."""
        query_rows, candidate_rows = ordered[QUERY_ROW], ordered[CANDIDATE_ROW]
        is_positive = ordered[LABEL] == 1
        begins_query = _changes(query_rows)
        query = np.cumsum(begins_query) - 1
        before = np.cumsum(is_positive) - is_positive
        number = before - before[begins_query][query]
        # Events of one moment and candidate have no before and after among them.
        begins_moment = _changes(query_rows, ordered[TIMESTAMP_S], candidate_rows)
        known = number[begins_moment][np.cumsum(begins_moment) - 1]
        num_positives = np.bincount(query[is_positive], minlength=int(begins_query.sum()))
        return cls(query, candidate_rows, is_positive, number, known, num_positives)


class _Cuts(NamedTuple):
    """How the positives of each query are cut into windows."""

    num_positives: npt.NDArray[np.int64]  # [num_queries]
    last_window: npt.NDArray[np.int64]  # [num_queries]
    length: int

    @classmethod
    def of(cls, num_positives: npt.NDArray[np.int64], length: int) -> "_Cuts":
        """As few windows as hold all; a query without positives has one empty window."""
        num_windows = np.maximum(-(-num_positives // length), 1)
        return cls(num_positives, np.cumsum(num_windows) - 1, length)

    @property
    def num_windows(self) -> int:
        """Of all queries."""
        return int(self.last_window[-1]) + 1

    def place_of(self, number: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Window of the number-th positive of a query, and its place there.

        With five positives and length 3, numbers 0 to 4 are 1, 1, 0, 0, 0 windows from the last
        one, which begins with number 2; the one before would begin with -1 and begins with 0.
        """
        size = self.num_positives[query]
        from_last = np.maximum(size - 1 - number, 0) // self.length
        first = np.maximum(size - (from_last + 1) * self.length, 0)
        return self.last_window[query] - from_last, number - first


def matrix_widths(sizes: npt.NDArray[np.int64]) -> list[int]:
    """Widths of matrices that windows fit into with little padding, each in the narrowest it can.

    A pass over a few small matrices is cheaper than over one that is mostly padding; it is dearer
    where the windows are of like size, which get one matrix.

    Args:
        sizes: `[num_windows]` candidates in each window.

    Returns:
        Ascending; at most `MAX_WIDTHS`; the last is the largest size, at least 1.
    """
    distinct, counts = np.unique(np.maximum(sizes, 1), return_counts=True)
    widths = [int(distinct[-1])]

    def places(chosen: Sequence[int]) -> int:
        return int(np.sort(chosen)[np.searchsorted(np.sort(chosen), distinct)] @ counts)

    while len(widths) < min(MAX_WIDTHS, len(distinct)):
        best = min(distinct, key=lambda one: places([*widths, int(one)]))
        if places([*widths, int(best)]) > (1 - MIN_SAVED) * places(widths):
            break
        widths.append(int(best))
    return sorted(widths)


class WindowsTable(NamedTuple):
    """`HistoryWindows` as tensors, and the widths of the matrices that a batch puts them into."""

    rows: tf.Tensor
    examples: tf.Tensor
    places: tf.Tensor
    starts: tf.Tensor
    sizes: tf.Tensor  # [num_windows]
    widths: tuple[int, ...]  # Ascending; the last holds the largest window.

    @classmethod
    def of(cls, windows: HistoryWindows) -> "WindowsTable":
        """Puts windows into tensors."""
        sizes = windows.sizes
        rows, examples, places, starts = map(tf.constant, windows)
        widths = tuple(matrix_widths(sizes))
        return cls(rows, examples, places, starts, tf.constant(sizes), widths)

    def of_windows(self, windows: tf.Tensor) -> tuple[tf.Tensor, SharedHistories]:
        """What a batch of windows holds.

        Args:
            windows: `[num_windows]` int.

        Returns:
            Positions of its examples `[batch]` int64, and the histories that these share.
        """
        entries = tf.ragged.range(
            tf.gather(self.starts, windows), tf.gather(self.starts, windows + 1)
        )
        places = tf.gather(self.places, entries.values)
        matrices, firsts = self._matrices(windows)
        flat = tf.gather(firsts, entries.value_rowids()) + places
        shared = SharedHistories(matrices, tf.where(places >= 0, flat, NOTHING_BEFORE))
        return tf.gather(self.examples, entries.values), shared

    def _matrices(self, windows: tf.Tensor) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """Windows by width, and `[num_windows]` int32 where the first entry of each stands."""
        sizes = tf.gather(self.sizes, windows)
        matrices = []
        firsts, start, narrower = tf.zeros_like(windows), 0, NOTHING_BEFORE
        for width in self.widths:
            members = tf.where((sizes > narrower) & (sizes <= width))
            rows = tf.gather(self.rows[:, :width], tf.gather(windows, members[:, 0]))
            number = tf.range(tf.shape(rows)[0])
            firsts = tf.tensor_scatter_nd_update(firsts, members, start + width * number)
            start, narrower = start + tf.size(rows), width
            matrices.append(rows)
        return tuple(matrices), firsts


def _by_query_and_time(examples: dict[str, np.ndarray]) -> npt.NDArray[np.int64]:
    """Positions of examples by query, then time, then position."""
    positions = np.arange(len(examples[QUERY_ROW]), dtype=np.int64)
    return np.lexsort((positions, examples[TIMESTAMP_S], examples[QUERY_ROW])).astype(np.int64)


def _changes(*keys: np.ndarray) -> npt.NDArray[np.bool_]:
    """Where in sorted arrays a run of equal values begins."""
    begins = np.ones(len(keys[0]), np.bool_)
    begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return begins

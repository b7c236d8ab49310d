"""Windows over positives: every example points at what its query had right before it."""

import numpy as np
import pytest

from tfrs_twotower.data.history_windows import HistoryWindows, WindowsTable, matrix_widths
from tfrs_twotower.keras import tf


def examples(rows: list[tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
    """Examples of (query row, candidate row, time, label)."""
    columns = np.array(rows).T
    names = ("query_row", "candidate_row", "timestamp_s", "label")
    return dict(zip(names, columns, strict=True))


def seen_by(windows: HistoryWindows, num_examples: int) -> list[list[int]]:
    """For each example what its window shows up to its place."""
    found: list[list[int]] = [[] for _ in range(num_examples)]
    for window in range(len(windows)):
        for entry in range(windows.starts[window], windows.starts[window + 1]):
            upto = windows.places[entry] + 1
            found[windows.examples[entry]] = windows.rows[window, :upto].tolist()
    return found


def by_definition(rows: list[tuple[int, int, int, int]], ids: list[int]) -> list[list[int]]:
    """One example at a time: the id rows of the query's positives before it, oldest first."""
    order = sorted(range(len(rows)), key=lambda place: (rows[place][2], place))
    return [
        [
            ids[rows[other][1]]
            for other in order
            if rows[other][0] == query
            and rows[other][3]
            and (rows[other][2], other) < (time, place)
        ]
        for place, (query, _, time, _) in enumerate(rows)
    ]


def test_each_example_sees_the_positives_before_it_oldest_first():
    rows = [(4, 0, 30, 1), (4, 1, 10, 1), (7, 2, 5, 1), (4, 2, 20, 0), (4, 3, 40, 1)]
    ids = np.array([10, 11, 12, 13])

    windows = HistoryWindows.of(examples(rows), ids, length=3)

    # Query 4: candidate 1 at 10, (2 disliked at 20), 0 at 30, 3 at 40.
    assert seen_by(windows, 5) == [[11], [], [], [11], [11, 10]]


def test_a_long_past_is_cut_into_windows_of_which_the_newest_is_full():
    rows = [(0, candidate, candidate, 1) for candidate in range(5)]
    ids = np.arange(10, 15)

    windows = HistoryWindows.of(examples(rows), ids, length=3)

    assert windows.rows.tolist() == [[10, 11, 0], [12, 13, 14]]
    # Candidate 2 sees the end of the older window, candidate 3 the start of the newer one.
    assert seen_by(windows, 5) == [[], [10], [10, 11], [12], [12, 13]]


@pytest.mark.parametrize("seed", range(6))
def test_random_logs_agree_with_the_definition(seed):
    draw = np.random.default_rng(seed)
    rows = [
        (int(q), int(c), int(t), int(label))
        for q, c, t, label in zip(
            draw.integers(0, 6, 60),
            draw.integers(0, 9, 60),
            draw.permutation(60),
            draw.integers(0, 4, 60) > 0,
            strict=True,
        )
    ]
    ids = draw.permutation(9) + 2
    length = 4

    seen = seen_by(HistoryWindows.of(examples(rows), ids, length), len(rows))

    for found, expected in zip(seen, by_definition(rows, ids.tolist()), strict=True):
        # A window may begin later than the history, but holds its end, and all that its query has.
        assert expected[len(expected) - len(found) :] == found
        assert bool(found) == bool(expected)
        assert len(found) <= length


def test_every_example_belongs_to_one_window():
    rows = [(q, c, 10 * q + c, (q + c) % 3 > 0) for q in range(5) for c in range(7)]

    windows = HistoryWindows.of(examples(rows), np.arange(7) + 2, length=3)

    assert sorted(windows.examples.tolist()) == list(range(len(rows)))
    assert windows.starts[0] == 0
    assert (np.diff(windows.starts) > 0).all()


def test_a_query_that_likes_nothing_has_an_empty_past():
    rows = [(0, 1, 5, 0), (0, 2, 6, 0)]

    windows = HistoryWindows.of(examples(rows), np.arange(3) + 2, length=3)

    assert windows.rows.tolist() == [[0, 0, 0]]
    assert windows.places.tolist() == [-1, -1]


def test_the_same_candidate_twice_in_a_second_does_not_see_itself():
    rows = [(0, 1, 5, 1), (0, 2, 6, 1), (0, 2, 6, 1)]

    windows = HistoryWindows.of(examples(rows), np.arange(3) + 2, length=4)

    assert seen_by(windows, 3) == [[], [3], [3]]


def test_a_batch_of_windows_holds_their_examples_and_nothing_else():
    rows = [(q, c, 10 * q + c, 1) for q in range(3) for c in range(4)]
    windows = HistoryWindows.of(examples(rows), np.arange(4) + 2, length=4)
    table = WindowsTable.of(windows)

    positions, ([histories], places) = table.of_windows(tf.constant([2, 0]))

    assert sorted(positions.numpy().tolist()) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert histories.numpy().tolist() == [[2, 3, 4, 5], [2, 3, 4, 5]]
    by_example = dict(zip(positions.numpy().tolist(), places.numpy().tolist(), strict=True))
    assert by_example[8] == -1
    assert by_example[11] == 2
    assert by_example[1] == 4


def test_windows_stand_in_the_narrowest_matrix_that_holds_them():
    counts = [1, 4, 2]
    rows = [(q, c, 10 * q + c, 1) for q, count in enumerate(counts) for c in range(count)]
    windows = HistoryWindows.of(examples(rows), np.arange(4) + 2, length=4)
    table = WindowsTable.of(windows)

    positions, (matrices, places) = table.of_windows(tf.constant([1, 0, 2]))

    assert [one.numpy().tolist() for one in matrices] == [[[2]], [[2, 3]], [[2, 3, 4, 5]]]
    by_example = dict(zip(positions.numpy().tolist(), places.numpy().tolist(), strict=True))
    # Entries: the first query's, the third's two, then the second's four.
    assert by_example == {0: -1, 1: -1, 2: 3, 3: 4, 4: 5, 5: -1, 6: 1}


def test_windows_of_one_size_have_one_matrix():
    assert matrix_widths(np.array([7, 7, 7])) == [7]
    assert matrix_widths(np.array([0])) == [1]


def test_a_width_that_saves_little_is_left_out():
    # 1,000 places; a matrix of width 9 for one window would save one of them.
    assert matrix_widths(np.array([10] * 99 + [9])) == [10]
    assert matrix_widths(np.array([5] * 90 + [200] * 10)) == [5, 200]

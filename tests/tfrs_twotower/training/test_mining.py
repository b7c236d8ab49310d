"""When the corpus is mined, and that a resumed training goes on with what was mined."""

import numpy as np
import pytest

from tfrs_twotower.models.run_folder import CHECKPOINTS
from tfrs_twotower.schema.loss import Loss
from tfrs_twotower.training.mining import mine, mined_negatives, segments

MINING = Loss(mined_negatives=2, mine_every=3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / CHECKPOINTS).mkdir()
    return tmp_path


def never():
    raise AssertionError("mined where it should not")


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (range(0, 8), [range(0, 3), range(3, 6), range(6, 8)]),
        (range(4, 8), [range(4, 6), range(6, 8)]),
        (range(6, 9), [range(6, 9)]),
        (range(8, 8), []),
    ],
    ids=["from the start", "resumed", "resumed at a mining", "over"],
)
def test_epochs_are_cut_where_the_corpus_is_mined(epochs, expected):
    assert list(segments(epochs, MINING)) == expected


def test_without_mining_the_epochs_are_one_segment():
    assert list(segments(range(2, 9), Loss())) == [range(2, 9)]
    assert mined_negatives(5, Loss(), "nowhere", never) is None


def test_untrained_towers_mine_nothing(folder):
    assert mined_negatives(2, MINING, folder, never) is None


def test_what_was_mined_is_gone_on_with_until_the_next_mining(folder):
    rows = np.array([[3, 1], [0, -1]])

    first = mined_negatives(3, MINING, folder, lambda: rows)
    resumed = mined_negatives(5, MINING, folder, never)
    next_one = mined_negatives(6, MINING, folder, lambda: rows + 1)

    np.testing.assert_array_equal(first, rows)
    np.testing.assert_array_equal(resumed, rows)
    np.testing.assert_array_equal(next_one, rows + 1)


class Towers:
    """Embeddings that are the features themselves."""

    name = "tower"

    def __init__(self):
        self.query_tower = lambda encoded, training: encoded["taste"]
        self.candidate_tower = lambda encoded, training: encoded["content"]


class Corpus:
    """Four candidates on a line."""

    features = {"content": np.array([[1.0], [4.0], [2.0], [3.0]], np.float32)}

    def __len__(self):
        return 4


def test_the_corpus_is_ranked_as_the_last_positive_of_each_query_saw_it():
    examples = {
        "query_row": np.array([2, 0, 2, 2]),
        "candidate_row": np.array([3, 1, 0, 1]),
        "timestamp_s": np.array([20, 5, 10, 30]),
        "label": np.array([1, 1, 1, 0]),
        # Query 2 at first likes small numbers, then large ones; its dislike is later still.
        "taste": np.array([[1.0], [1.0], [-1.0], [-1.0]], np.float32),
    }

    mined = mine(Towers(), examples, Corpus(), k=3)

    # By content: 1, 3, 2, 0. Query 0 likes 1; query 2 likes 3 and 0; query 1 has no positive.
    np.testing.assert_array_equal(mined, [[3, 2, 0], [-1, -1, -1], [1, 2, -1]])

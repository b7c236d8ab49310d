"""Training batches of an ordered history: whole windows, each example once an epoch."""

import numpy as np
import pytest

from tests import every_kind
from tfrs_twotower.data.batches import training_batches
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.schema import Config, parse_config

HISTORY_LENGTH = 4
SEED = 11


def config(*overrides: str) -> Config:
    return parse_config(
        every_kind.CONFIG_TEXT,
        "every kind",
        [
            "features.query.recent.encoder=gru",
            "features.query.user.dropout=0.0",
            "loss.mined_negatives=0",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return every_kind.write_prepared(tmp_path_factory.mktemp("data") / "prepared", config())


def batches(folder, asked: Config, epochs: range) -> list[dict[str, np.ndarray]]:
    data = PreparedData(folder, asked)
    found = training_batches(data.examples_to_train(), data.corpus(), asked, epochs)
    return [{k: v for k, v in batch.items() if k != "known_positives"} for batch in found]


def sequences(folder, asked: Config) -> dict[int, list[int]]:
    """The id rows of each user's positives, oldest first, straight from the examples."""
    data = PreparedData(folder, asked)
    examples, ids = data.examples("train"), data.corpus().features["item"]
    order = np.argsort(examples["timestamp_s"], kind="stable")
    kept = [place for place in order if examples["label"][place] == 1]
    found: dict[int, list[int]] = {}
    for place in kept:
        found.setdefault(int(examples["user"][place]), []).append(
            int(ids[examples["candidate_row"][place]])
        )
    return found


def test_each_example_has_the_profile_and_the_history_of_its_user(folder):
    asked = config()
    of_user = sequences(folder, asked)
    ids = PreparedData(folder, asked).corpus().features["item"]

    for batch in batches(folder, asked, range(2)):
        matrices, places = batch["query"]["recent"]
        histories = [history for rows in matrices for history in rows.numpy().tolist()]
        firsts = np.cumsum([0, *map(len, histories)])
        for user, row, place in zip(
            batch["query"]["user"].numpy(),
            batch["candidate_row"].numpy(),
            places.numpy(),
            strict=True,
        ):
            history = np.searchsorted(firsts, max(place, 0), side="right") - 1
            seen = histories[history][: max(place - firsts[history] + 1, 0)]
            before = of_user[int(user)]
            # What was seen is followed by the candidate itself.
            follows = [
                before[start : start + len(seen) + 1] == [*seen, int(ids[row])]
                for start in range(len(before))
            ]
            assert any(follows)


@pytest.mark.parametrize(("mined", "is_read"), [(0, False), (2, True)])
def test_only_mining_reads_the_histories_that_the_examples_hold(folder, mined, is_read):
    data = PreparedData(folder, config(f"loss.mined_negatives={mined}"))

    assert ("recent" in data.examples_to_train()) == is_read


def test_an_epoch_holds_no_example_twice(folder):
    asked = config("training.batch_size=40")
    pairs = [
        (int(user), int(row), int(moment))
        for batch in batches(folder, asked, range(1))
        for user, row, moment in zip(
            batch["query"]["user"].numpy(),
            batch["candidate_row"].numpy(),
            batch["query"]["moment"].numpy()[:, 0],
            strict=True,
        )
    ]
    data = PreparedData(folder, asked)
    examples = data.examples("train")
    chosen = examples["label"] == 1
    every = zip(
        examples["user"][chosen].tolist(),
        examples["candidate_row"][chosen].tolist(),
        examples["moment"][chosen][:, 0].tolist(),
        strict=True,
    )

    remaining = list(every)
    for pair in pairs:
        remaining.remove(pair)
    # Windows that make no whole batch are left out.
    assert len(remaining) < 40


def test_batches_are_about_as_large_as_asked(folder):
    sizes = [
        len(batch["weight"])
        for batch in batches(folder, config("training.batch_size=40"), range(1))
    ]

    assert 20 <= np.mean(sizes) <= 60


def test_a_resumed_training_sees_what_an_uninterrupted_one_sees(folder):
    asked = config()
    whole = batches(folder, asked, range(3))
    resumed = batches(folder, asked, range(2, 3))

    assert len(whole) == 3 * len(resumed)
    for expected, found in zip(whole[2 * len(resumed) :], resumed, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "loss", ["{kind: softmax}", "{kind: bce}", "{kind: bpr}", "{uniform_negatives: 5}"]
)
def test_every_loss_trains_on_windows(folder, loss):
    asked = config(f"loss={loss}")
    data = PreparedData(folder, asked)
    model = build_model(data)

    for batch in training_batches(data.examples_to_train(), data.corpus(), asked, range(1)).take(2):
        assert np.isfinite(model.compute_loss(batch, training=True).numpy())

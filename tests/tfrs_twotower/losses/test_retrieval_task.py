"""The task puts the losses together as the config says."""

import numpy as np
import pytest

from tfrs_twotower import losses
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses import RetrievalTask
from tfrs_twotower.schema.loss import Loss

QUERIES = tf.constant([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
# The positives of the three, and one further candidate.
CANDIDATES = tf.constant([[2.0, 1.0], [0.5, 1.0], [3.0, -1.0], [0.0, 0.5]])
SCORES = np.array([[2.0, 0.5, 3.0, 0.0], [2.0, 2.0, -2.0, 1.0], [3.0, 1.5, 2.0, 0.5]])
POSITIVE = np.diag(SCORES)
WEIGHT = tf.constant([1.0, 2.0, 0.5])
OWN = tf.constant([[[1.0, 1.0], [9.0, 9.0]], [[0.0, -1.0], [3.0, 0.5]], [[9.0, 9.0], [9.0, 9.0]]])
IS_OWN = tf.constant([[True, False], [True, True], [False, False]])
OWN_SCORES = [[1.0], [-2.0, 1.0], []]


def cross_entropy(positive, negatives):
    return np.log(np.exp([positive, *negatives]).sum()) - positive


def weighted(values):
    return np.average(values, weights=WEIGHT)


def test_the_config_s_default_is_a_softmax_over_the_batch_with_all_corrections():
    settings = {
        "candidate_ids": tf.constant([4, 1, 4, 6]),
        "candidate_log_q": tf.math.log([0.4, 0.1, 0.3, 0.2]),
        "known_positives": tf.ragged.constant([[6], [], [1]], dtype=tf.int32),
        "sample_weight": WEIGHT,
    }

    loss = RetrievalTask.from_config(Loss())(QUERIES, CANDIDATES, **settings)

    expected = losses.in_batch_softmax(QUERIES, CANDIDATES, temperature=0.1, **settings)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "negatives"),
    [
        # Query 0 likes candidate 3; candidates 0 and 2 are the same.
        ({}, [[0.5], [2.0, -2.0, 1.0], [1.5, 0.5]]),
        ({"mask": "accidental_hits"}, [[0.5, 0.0], [2.0, -2.0, 1.0], [1.5, 0.5]]),
        ({"mask": "none"}, [[0.5, 3.0, 0.0], [2.0, -2.0, 1.0], [3.0, 1.5, 0.5]]),
        ({"in_batch_negatives": False}, [[], [1.0], [0.5]]),
        ({"hard_negatives": 1}, [[0.5], [2.0], [1.5]]),
        (
            {"hard_negatives": 2, "mask": "accidental_hits"},
            [[0.5, 0.0], [2.0, 1.0], [1.5, 0.5]],
        ),
        # A query has three other candidates in this batch.
        ({"hard_negatives": 9}, [[0.5], [2.0, -2.0, 1.0], [1.5, 0.5]]),
    ],
    ids=[
        *("all masks", "known ones count", "hits count", "uniform alone", "hardest"),
        *("two hardest", "more than there are"),
    ],
)
def test_each_setting_decides_what_is_a_negative(setting, negatives):
    task = RetrievalTask(temperature=1.0, **({"mask": "known_positives"} | setting))

    loss = task(
        QUERIES,
        CANDIDATES,
        candidate_ids=tf.constant([4, 1, 4, 6]),
        candidate_log_q=tf.math.log([0.4, 0.1, 0.3, 0.2]),
        known_positives=tf.ragged.constant([[6], [], []], dtype=tf.int32),
        sample_weight=WEIGHT,
    )

    expected = [cross_entropy(p, n) for p, n in zip(POSITIVE, negatives, strict=True)]
    assert float(loss) == pytest.approx(weighted(expected), rel=1e-6)


def test_the_bilateral_softmax_takes_the_negatives_that_are_there():
    loss = RetrievalTask(temperature=0.5, mask="accidental_hits", bilateral_weight=1.5)(
        QUERIES,
        CANDIDATES,
        candidate_ids=tf.constant([4, 1, 4, 6]),
        own_negative_embeddings=OWN,
        is_own_negative=IS_OWN,
    )

    negatives = [[0.5, 0.0, 1.0], [2.0, -2.0, 1.0, -2.0, 1.0], [1.5, 0.5]]
    expected = [
        1.5 * np.log(np.exp(2.0 * np.array(scores)).sum()) - 2.0 * positive
        for positive, scores in zip(POSITIVE, negatives, strict=True)
    ]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_hardest_are_chosen_and_counted_with_their_correction():
    task = RetrievalTask(temperature=1.0, hard_negatives=1, logq_correction=True)

    loss = task(QUERIES, CANDIDATES, candidate_log_q=tf.math.log([0.01, 0.1, 0.9, 0.01]))

    # Taken off: log 0.03, log 0.3, log 2.7, log 0.03. Query 0: 0.5 + 1.20 < 3 - 0.99 < 0 + 3.51.
    expected = [
        cross_entropy(2.0, [0.0 - np.log(0.03)]),
        cross_entropy(2.0, [2.0 - np.log(0.03)]),
        cross_entropy(2.0, [3.0 - np.log(0.03)]),
    ]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("uniform", "num_draws"), [(False, 3), (True, 1)], ids=["in the batch", "uniform alone"]
)
def test_the_correction_counts_the_draws_that_are_negatives(uniform, num_draws):
    task = RetrievalTask(temperature=1.0, in_batch_negatives=not uniform, logq_correction=True)
    q = np.array([0.4, 0.1, 0.3, 0.2])

    found = task(QUERIES, CANDIDATES, candidate_log_q=tf.math.log(q.astype("f")))

    corrected = SCORES - np.log(num_draws * q)
    expected = [
        cross_entropy(
            POSITIVE[i], [corrected[i, j] for j in ([3] if uniform else range(4)) if j != i]
        )
        for i in range(3)
    ]
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-6)


def test_own_negatives_join_the_softmax_divided_by_the_temperature():
    loss = RetrievalTask(temperature=0.5)(
        QUERIES, CANDIDATES, own_negative_embeddings=OWN, is_own_negative=IS_OWN
    )

    in_batch = [[0.5, 3.0, 0.0], [2.0, -2.0, 1.0], [3.0, 1.5, 0.5]]
    expected = [
        cross_entropy(2 * p, [2 * score for score in [*shared, *own]])
        for p, shared, own in zip(POSITIVE, in_batch, OWN_SCORES, strict=True)
    ]
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-6)


def of_triplets(value, negatives):
    """The weighted mean over triplets of a value of the difference."""
    values, weights = [], []
    for positive, of_query, weight in zip(POSITIVE, negatives, WEIGHT.numpy(), strict=True):
        values += [value(positive - negative) for negative in of_query]
        weights += [weight] * len(of_query)
    return np.average(values, weights=weights)


TRIPLETS = {
    "margin": ({"margin": 1.5}, lambda d: max(0.0, 1.5 - d)),
    "bpr": ({"temperature": 2.0}, lambda d: np.log(1 + np.exp(-d / 2.0))),
}


@pytest.mark.parametrize("kind", TRIPLETS)
def test_triplets_are_positives_with_their_own_negatives(kind):
    settings, value = TRIPLETS[kind]

    loss = RetrievalTask(kind, **settings)(
        QUERIES,
        CANDIDATES[:3],
        own_negative_embeddings=OWN,
        is_own_negative=IS_OWN,
        sample_weight=WEIGHT,
    )

    assert float(loss) == pytest.approx(of_triplets(value, OWN_SCORES), rel=1e-6)


@pytest.mark.parametrize("kind", TRIPLETS)
def test_triplets_take_the_hardest_of_the_batch_too(kind):
    settings, value = TRIPLETS[kind]
    task = RetrievalTask(kind, hard_negatives=2, mask="accidental_hits", **settings)

    loss = task(
        QUERIES,
        CANDIDATES,
        candidate_ids=tf.constant([4, 1, 4, 6]),
        own_negative_embeddings=OWN,
        is_own_negative=IS_OWN,
        sample_weight=WEIGHT,
    )

    hardest = [[0.5, 0.0], [2.0, 1.0], [1.5, 0.5]]
    negatives = [[*a, *b] for a, b in zip(hardest, OWN_SCORES, strict=True)]
    assert float(loss) == pytest.approx(of_triplets(value, negatives), rel=1e-6)


def test_labelled_pairs_are_examples_and_the_own_negatives_of_positives():
    task = RetrievalTask("bce", temperature=0.5)

    loss = task(
        QUERIES,
        CANDIDATES[:3],
        own_negative_embeddings=OWN,
        is_own_negative=IS_OWN,
        labels=tf.constant([1, 0, 1]),
        sample_weight=WEIGHT,
    )

    def of_pair(score, label):
        return np.log(1 + np.exp(-2 * score if label else 2 * score))

    # The own negatives of the second example are dropped: it is a negative itself.
    pairs = [of_pair(2.0, 1), of_pair(2.0, 0), of_pair(2.0, 1), of_pair(1.0, 0)]
    assert float(loss) == pytest.approx(np.average(pairs, weights=[1.0, 2.0, 0.5, 1.0]), rel=1e-6)


def test_a_learned_temperature_starts_where_it_is_put_and_is_trained():
    task = RetrievalTask(temperature=0.2, learn_temperature=True)
    with tf.GradientTape() as tape:
        loss = task(QUERIES, CANDIDATES)

    (variable,) = task.trainable_variables
    gradient = tape.gradient(loss, variable)

    def loss_at(temperature):
        return float(RetrievalTask(temperature=temperature)(QUERIES, CANDIDATES))

    assert float(task.temperature) == pytest.approx(0.2)
    assert float(loss) == pytest.approx(loss_at(0.2), rel=1e-6)
    slope = (loss_at(0.2 * 1.01) - loss_at(0.2 / 1.01)) / (2 * np.log(1.01))
    assert float(gradient) == pytest.approx(slope, rel=1e-2)


def test_a_fixed_temperature_is_no_weight():
    assert RetrievalTask(temperature=0.2).trainable_variables == []


# --- what is asked for and not given --------------------------------------------------------

IDS = tf.constant([4, 1, 4, 6])


@pytest.mark.parametrize(
    ("options", "given", "lacking"),
    [
        ({"logq_correction": True}, {}, "candidate_log_q"),
        ({"mask": "accidental_hits"}, {}, "candidate_ids"),
        ({"mask": "known_positives"}, {"candidate_ids": IDS}, "known_positives"),
        ({"kind": "bpr", "hard_negatives": 1, "mask": "accidental_hits"}, {}, "candidate_ids"),
    ],
)
def test_a_correction_without_its_argument_is_refused(options, given, lacking):
    task = RetrievalTask(**options)

    with pytest.raises(ValueError, match=f"needs `{lacking}` in every call"):
        task(QUERIES, CANDIDATES, **given)


@pytest.mark.parametrize("kind", ["margin", "bpr", "bce"])
def test_a_kind_that_does_not_rank_the_batch_needs_nothing_to_mask_it_by(kind):
    task = RetrievalTask.from_config(Loss(kind=kind))

    loss = task(QUERIES, CANDIDATES[:3], own_negative_embeddings=OWN, is_own_negative=IS_OWN)

    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "sofmax"}, "`kind` must be one of .*'softmax'.* got 'sofmax'"),
        ({"mask": "all"}, "`mask` must be one of .*'known_positives'.* got 'all'"),
        ({"kind": "bpr", "bilateral_weight": 1.2}, "are for `kind='softmax'`"),
        ({"hard_negatives": 3, "in_batch_negatives": False}, "without `hard_negatives`"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        RetrievalTask(**options)


# --- in a model of anybody's ----------------------------------------------------------------


class PlainModel(tfrs.Model):
    """A model as TFRS' own tutorial writes it: no config, no prepared data."""

    def __init__(self, task: RetrievalTask) -> None:
        super().__init__()
        self.user = keras.Sequential([keras.layers.Embedding(20, 8), keras.layers.Dense(8)])
        self.item = keras.layers.Embedding(20, 8)
        self.task = task

    def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return self.task(
            tf.math.l2_normalize(self.user(features["user"]), axis=1),
            tf.math.l2_normalize(self.item(features["item"]), axis=1),
            candidate_ids=features["item"],
        )


def test_a_model_without_our_config_learns_by_the_task():
    """Users like the items of their parity."""
    keras.utils.set_random_seed(3)
    users, items = np.meshgrid(np.arange(20), np.arange(20))
    likes = (users % 2 == items % 2) & (users != items)
    log = tf.data.Dataset.from_tensor_slices({"user": users[likes], "item": items[likes]})
    model = PlainModel(RetrievalTask(temperature=0.3, mask="accidental_hits"))
    model.compile(optimizer=keras.optimizers.Adam(0.02))

    history = model.fit(log.shuffle(400, seed=3).batch(60), epochs=12, verbose=0).history

    assert history["loss"][-1] < history["loss"][0]
    numbers = np.arange(20)
    scores = model.user(numbers).numpy() @ model.item(numbers).numpy().T
    likes = numbers[:, np.newaxis] % 2 == numbers % 2
    # Among them the one that the log never shows.
    assert np.min(scores, where=likes, initial=9.0, axis=1).min() > 0
    assert np.max(scores, where=~likes, initial=-9.0, axis=1).max() < 0

"""Every kind of loss and of negatives trains the two towers to what was planted."""

import numpy as np
import pytest

from tests import tiny_world
from tfrs_twotower.data.batches import steps_per_epoch, training_batches, training_examples
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.inputs import rank_model
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.schema import Config, parse_config
from tfrs_twotower.training.mining import mine
from tfrs_twotower.training.optimizers import make_optimizer

LOSSES = {
    "softmax": "{temperature: 0.3}",
    "softmax, learned temperature": "{temperature: 0.3, learn_temperature: true}",
    "softmax with uniform negatives": "{temperature: 0.3, uniform_negatives: 40}",
    "softmax on uniform negatives": "{in_batch_negatives: false, uniform_negatives: 40}",
    "softmax on the hardest": "{temperature: 0.3, hard_negatives: 20}",
    "softmax with own negatives": "{temperature: 0.3, implicit_negatives: 3}",
    "margin": "{kind: margin, margin: 0.8}",
    "margin on the hardest": "{kind: margin, hard_negatives: 8, implicit_negatives: 0}",
    "bpr": "{kind: bpr, temperature: 0.2}",
    "bce": "{kind: bce, temperature: 0.3}",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "prepared"
    return tiny_world.write_prepared(folder, tiny_world.config())


def config(loss: str) -> Config:
    settings = [f"loss={loss}", "training.epochs=30"]
    return parse_config(tiny_world.CONFIG_TEXT, "tiny world", settings)


def trained(data, mined=None):
    examples = data.examples("train")
    num_examples = len(training_examples(examples, data.config)["label"])
    training = data.config.training
    model = build_model(data)
    num_steps = steps_per_epoch(num_examples, training.batch_size)
    model.compile(optimizer=make_optimizer(training, num_steps))
    model.fit(
        training_batches(examples, data.corpus(), data.config, range(training.epochs), mined),
        epochs=training.epochs,
        steps_per_epoch=num_steps,
        verbose=0,
    )
    return model


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_the_withheld_candidate_ranks_before_all_that_the_query_does_not_like(prepared, loss):
    data = PreparedData(prepared, config(loss))

    model = trained(data)

    ranks = rank_model(model, data.corpus(), load_evaluation_set(data, "test")).ranks
    if data.config.loss.kind == "softmax":
        np.testing.assert_array_equal(ranks, np.ones(tiny_world.SIZE))
    else:
        # Pairwise losses draw the withheld one as a negative too; chance is 6 of 11.
        assert np.mean(ranks) < 2


def test_mined_negatives_are_the_best_ranked_that_the_query_does_not_like(prepared):
    data = PreparedData(prepared, config("{temperature: 0.3}"))
    model = trained(data)

    mined = mine(model, data.examples("train"), data.corpus(), k=5)

    # Eleven candidates are left for each query; the withheld one is ranked first of them.
    withheld = load_evaluation_set(data, "test").positives
    assert mined.shape == (tiny_world.SIZE, 5)
    np.testing.assert_array_equal(mined[withheld.queries, 0], withheld.candidate_rows)
    known = data.examples("train")
    liked = set(zip(known["query_row"].tolist(), known["candidate_row"].tolist(), strict=True))
    assert all((row, each) not in liked for row, found in enumerate(mined) for each in found)


def test_mined_negatives_are_pushed_away(prepared):
    """The withheld candidate, given as every query's mined negative, ranks low in the end."""
    loss = "{kind: bpr, temperature: 0.1, implicit_negatives: 1, mined_negatives: 8}"
    data = PreparedData(prepared, config(loss))
    withheld = load_evaluation_set(data, "test").positives
    mined = np.zeros([tiny_world.SIZE, 1], np.int64)
    mined[withheld.queries, 0] = withheld.candidate_rows

    model = trained(data, mined)

    ranks = rank_model(model, data.corpus(), load_evaluation_set(data, "test")).ranks
    assert np.mean(ranks) > 8


def test_the_loss_of_a_batch_does_not_depend_on_how_it_is_embedded(prepared):
    """Positives, uniform and own negatives go through the tower as one batch, and come apart."""
    loss = "{uniform_negatives: 7, implicit_negatives: 3, temperature: 0.3}"
    data = PreparedData(prepared, config(loss))
    batch = next(
        iter(training_batches(data.examples("train"), data.corpus(), data.config, range(1)))
    )
    model = build_model(data)

    def embedded(group):
        rows = group["candidate"]["item_id"]
        flat = model.candidate_tower({"item_id": tf.reshape(rows, [-1])})
        return tf.reshape(flat, [*rows.shape, -1])

    uniform, own = batch["uniform_negatives"], batch["own_negatives"]
    expected = model.task(
        model.query_tower(batch["query"]),
        tf.concat([embedded(batch), embedded(uniform)], 0),
        candidate_ids=tf.concat([batch["candidate_row"], uniform["candidate_row"]], 0),
        candidate_log_q=tf.concat([batch["candidate_log_q"], uniform["candidate_log_q"]], 0),
        known_positives=batch["known_positives"],
        own_negative_embeddings=embedded(own),
        is_own_negative=own["candidate_row"] >= 0,
        sample_weight=batch["weight"],
    )
    assert float(model.compute_loss(batch)) == pytest.approx(float(expected), rel=1e-6)


def test_the_model_is_a_keras_model_that_reports_its_loss(prepared):
    data = PreparedData(prepared, config("{temperature: 0.3}"))
    model = build_model(data)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    batches = training_batches(data.examples("train"), data.corpus(), data.config, range(1))

    history = model.fit(batches, verbose=0)

    losses = [float(model.compute_loss(batch)) for batch in batches]
    assert history.history["loss"][0] == pytest.approx(losses[-1], rel=1e-5)

"""What an epoch leaves behind: the best weights, a checkpoint, and when to stop."""

import json

import numpy as np
import pytest

from tfrs_twotower.keras import keras, tf
from tfrs_twotower.schema import UserError
from tfrs_twotower.training.callbacks import KeepBest, MeanLossAndNaNGuard

METRIC = "val_recall_at_10"


def model_of(value: float = 0.0) -> keras.Model:
    """One weight, whose value says which epoch it is from."""
    model = keras.Sequential([keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.build((None, 1))
    model.compile(optimizer=keras.optimizers.SGD())
    assign(model, value)
    return model


def assign(model: keras.Model, value: float) -> None:
    model.trainable_variables[0].assign([[value]])


def weight(model: keras.Model) -> float:
    return float(model.trainable_variables[0].numpy()[0, 0])


def best_weight(folder) -> float:
    model = model_of()
    tf.train.Checkpoint(model=model).read(str(folder / "best.weights")).expect_partial()
    return weight(model)


def keep_best(folder, model, *, monitor=METRIC, patience=99) -> KeepBest:
    callback = KeepBest(folder, monitor=monitor, patience=patience)
    callback.restore(model)
    return callback


def run(callback: KeepBest, model: keras.Model, values: list[float]) -> int:
    """Epochs that reach the given values; the weight is the number of the epoch."""
    for value in values:
        epoch = callback.finished_epochs
        assign(model, float(epoch))
        callback.on_epoch_end(epoch, {"loss": 1.0, METRIC: value})
        if model.stop_training:
            break
    return callback.finished_epochs


@pytest.fixture
def model():
    made = model_of()
    made.stop_training = False
    return made


def test_the_weights_of_the_best_epoch_are_kept(tmp_path, model):
    callback = keep_best(tmp_path, model)

    run(callback, model, [0.1, 0.5, 0.3])

    assert callback.best_epoch == 1
    assert best_weight(tmp_path) == 1.0


def test_the_first_of_equally_good_epochs_is_kept(tmp_path, model):
    callback = keep_best(tmp_path, model)

    run(callback, model, [0.2, 0.5, 0.5])

    assert callback.best_epoch == 1
    assert best_weight(tmp_path) == 1.0


def test_a_metric_of_zero_is_better_than_none(tmp_path, model):
    callback = keep_best(tmp_path, model)

    run(callback, model, [0.0])

    assert callback.best_epoch == 0
    assert best_weight(tmp_path) == 0.0


def test_without_a_metric_the_last_epoch_is_kept_and_training_goes_on(tmp_path, model):
    callback = keep_best(tmp_path, model, monitor=None, patience=1)

    finished = run(callback, model, [0.9, 0.1, 0.1, 0.1])

    assert finished == 4
    assert best_weight(tmp_path) == 3.0


@pytest.mark.parametrize(
    ("values", "finished"),
    [
        pytest.param([0.5, 0.4, 0.3, 0.2, 0.1], 3, id="two-epochs-no-better"),
        pytest.param([0.5, 0.4, 0.6, 0.5, 0.4, 0.3], 5, id="patience-starts-anew"),
        pytest.param([0.1, 0.2, 0.3, 0.4], 4, id="always-better"),
        pytest.param([0.5, 0.5, 0.5, 0.5], 3, id="equal-is-no-better"),
    ],
)
def test_training_stops_when_the_metric_gets_no_better(tmp_path, model, values, finished):
    callback = keep_best(tmp_path, model, patience=2)

    assert run(callback, model, values) == finished


def test_a_resumed_training_remembers_its_best_epoch(tmp_path, model):
    """Keras' own callbacks forget it, and overwrite the best weights with worse ones."""
    run(keep_best(tmp_path, model), model, [0.1, 0.9])

    resumed = keep_best(tmp_path, model)
    run(resumed, model, [0.2, 0.3])

    assert resumed.best_epoch == 1
    assert best_weight(tmp_path) == 1.0


def test_a_resumed_training_goes_on_with_the_last_weights_and_not_the_best(tmp_path, model):
    run(keep_best(tmp_path, model), model, [0.9, 0.1, 0.2])

    fresh = model_of(-7.0)
    resumed = keep_best(tmp_path, fresh)

    assert weight(fresh) == 2.0
    assert resumed.finished_epochs == 3


def test_a_resumed_training_counts_its_patience_on(tmp_path, model):
    run(keep_best(tmp_path, model, patience=3), model, [0.9, 0.1])

    resumed = keep_best(tmp_path, model, patience=3)
    finished = run(resumed, model, [0.1, 0.1, 0.1, 0.1])

    assert finished == 4


def test_a_training_that_is_over_is_known_to_be_over_after_a_resume(tmp_path, model):
    run(keep_best(tmp_path, model, patience=1), model, [0.9, 0.1])

    assert keep_best(tmp_path, model, patience=1).is_over


def test_the_optimizer_goes_on_where_it_was(tmp_path, model):
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(17)
    run(keep_best(tmp_path, model), model, [0.1])

    fresh = model_of()
    keep_best(tmp_path, fresh)

    assert int(fresh.optimizer.iterations) == 17


def test_the_logs_of_each_epoch_are_written_as_it_ends(tmp_path, model):
    run(keep_best(tmp_path, model), model, [0.1, 0.5])

    written = json.loads((tmp_path / "metrics.json").read_text())

    assert written["epochs"] == [
        {"epoch": 0, "loss": 1.0, METRIC: 0.1},
        {"epoch": 1, "loss": 1.0, METRIC: 0.5},
    ]


def test_an_epoch_without_a_checkpoint_is_forgotten_on_resume(tmp_path, model):
    """A kill between the log and the checkpoint: that epoch is trained again."""
    run(keep_best(tmp_path, model), model, [0.1, 0.5])
    ahead = json.loads((tmp_path / "metrics.json").read_text())
    ahead["epochs"].append({"epoch": 2, "loss": 1.0, METRIC: 0.7})
    (tmp_path / "metrics.json").write_text(json.dumps(ahead))

    resumed = keep_best(tmp_path, model)
    run(resumed, model, [0.6])

    assert [epoch[METRIC] for epoch in resumed.epochs] == [0.1, 0.5, 0.6]


def test_one_checkpoint_is_kept(tmp_path, model):
    run(keep_best(tmp_path, model), model, [0.1, 0.2, 0.3])

    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 1


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_told_at_its_step(loss):
    watch = MeanLossAndNaNGuard()
    watch.on_epoch_begin(1)
    watch.on_train_batch_end(0, {"loss": 1.0})

    with pytest.raises(UserError, match=r"diverged: the loss in epoch 2 is .* lower `training.lea"):
        watch.on_train_batch_end(1, {"loss": float(loss)})


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps():
    watch, logs = (
        MeanLossAndNaNGuard(),
        {"loss": 9.0, "total_loss": 9.0, "regularization_loss": 0.0},
    )
    watch.on_epoch_begin(0)
    watch.on_train_batch_end(0, {"loss": 100.0})
    watch.on_epoch_begin(1)
    for batch, loss in enumerate([1.0, 2.0, 6.0]):
        watch.on_train_batch_end(batch, {"loss": loss})

    watch.on_epoch_end(1, logs)

    assert logs == {"loss": 3.0}


def test_a_worker_that_does_not_write_keeps_count_all_the_same(tmp_path, model):
    callback = KeepBest(tmp_path, monitor=METRIC, patience=2, writes=False)
    callback.restore(model)

    finished = run(callback, model, [0.5, 0.4, 0.3, 0.2])

    assert (finished, callback.best_epoch) == (3, 0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

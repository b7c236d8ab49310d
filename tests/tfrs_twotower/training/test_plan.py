"""What a training would take, counted by hand."""

import pytest

from tests import every_kind, tiny_world
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.training.plan import plan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "prepared"
    return plan(tiny_world.config(), tiny_world.write_prepared(folder, tiny_world.config()))


def test_the_weights_are_the_tables_of_both_sides(tiny):
    # Twenty tokens, padding and unknown, in eight dimensions.
    assert sorted(tiny.weights.values()) == [[22, 8], [22, 8]]
    assert tiny.num_parameters == 352


def test_the_steps_are_whole_batches(tiny):
    assert (tiny.num_examples, tiny.batch_size) == (180, 60)
    assert (tiny.steps_per_epoch, tiny.max_epochs) == (3, 20)


def test_the_memory_is_what_the_arrays_take(tiny):
    # Adam keeps two moments a weight, the step and the learning rate.
    assert tiny.memory_bytes["weights"] == 4 * 352
    assert tiny.memory_bytes["optimizer"] == pytest.approx(2 * 4 * 352, abs=16)
    # An example: one row, and query, candidate, time (8 bytes), label, weight.
    assert tiny.memory_bytes["examples"] == 180 * (4 + 4 + 4 + 8 + 4 + 4)
    # A candidate: one row and an embedding.
    assert tiny.memory_bytes["candidates"] == 20 * (4 + 4 * 8)


@pytest.mark.parametrize(
    ("batch_size", "negatives", "floats"),
    [
        # A score for each pair and its gradient, and likewise the embeddings of both sides.
        pytest.param(64, 0, 2 * 64 * 64 + 2 * (64 + 64) * 8, id="whole"),
        pytest.param(2048, 100, 2 * 512 * 2148 + 2 * (2048 + 2148) * 8, id="in-blocks"),
    ],
)
def test_a_step_takes_what_its_batch_takes(tmp_path, batch_size, negatives, floats):
    config = tiny_world.config(batch_size=batch_size)
    config = config.model_copy(
        update={"loss": config.loss.model_copy(update={"uniform_negatives": negatives})}
    )
    folder = tiny_world.write_prepared(tmp_path / "prepared", config)

    assert plan(config, folder).memory_bytes["step"] == 4 * floats


def test_the_examples_of_every_kind_take_what_is_counted(tmp_path):
    config = every_kind.config()
    folder = every_kind.write_prepared(tmp_path / "prepared", config)
    data = PreparedData(folder, config)
    read = [data.examples(split) for split in ("train", "validation")]

    planned = plan(config, folder)

    held = sum(values.nbytes for examples in read for values in examples.values())
    # Explicit negatives of the validation split are read, and not kept.
    negatives = data.manifest["counts"]["examples"]["validation"]["negatives"]
    assert planned.memory_bytes["examples"] == held * (1 - negatives / 200)
    model = build_model(data)
    assert planned.memory_bytes["weights"] == sum(v.numpy().nbytes for v in model.variables)

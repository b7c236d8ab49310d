"""What the classes of errors promise, and how their messages read."""

import pickle

import pytest

from tfrs_twotower.schema import Parameter, TrainingDiverged, UsageError, UserError


@pytest.mark.parametrize(
    ("parameter", "in_python", "as_option"),
    [
        (Parameter("overwrite", True), "`overwrite=True`", "--overwrite"),
        (Parameter("target_recall", 0.9), "`target_recall=0.9`", "--target_recall 0.9"),
        (Parameter("relevant_from"), "`relevant_from`", "--relevant_from"),
    ],
)
def test_a_parameter_is_spelled_for_python_and_for_the_command_line(
    parameter, in_python, as_option
):
    error = UsageError("out is finished: pass ", parameter, " or name another")

    assert str(error) == f"out is finished: pass {in_python} or name another"
    assert error.as_command_line() == f"out is finished: pass {as_option} or name another"


def test_a_message_without_parameters_is_the_same_for_both():
    error = UsageError("no folder out")

    assert str(error) == error.as_command_line() == "no folder out"


def test_an_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UsageError("pass ", Parameter("resume", True))))

    assert error.as_command_line() == "pass --resume"


def test_a_training_that_diverged_is_a_user_error_with_its_remedy():
    error = TrainingDiverged.because("the loss in epoch 2 is nan")

    assert isinstance(error, UserError)
    assert str(error) == (
        "training diverged: the loss in epoch 2 is nan; lower `training.learning_rate` or raise "
        "`loss.temperature`"
    )

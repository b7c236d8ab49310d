"""TF Serving's batching parameters file, read."""

import logging
from pathlib import Path

import pytest

from serving.batching import BatchingOptions
from serving.batching_config import read_batching_options
from tfrs_twotower.schema import UsageError


def write(tmp_path, text):
    path = tmp_path / "batching.config"
    path.write_text(text)
    return path


def test_a_file_of_tf_serving_is_read(tmp_path):
    path = write(
        tmp_path,
        "max_batch_size { value: 128 } num_batch_threads { value: 3 }\n"
        "pad_variable_length_inputs: true",
    )

    assert read_batching_options(path) == BatchingOptions(128, 3, True)


def test_what_it_does_not_say_is_as_without_it(tmp_path):
    assert read_batching_options(write(tmp_path, "")) == BatchingOptions()


def test_what_has_no_effect_is_logged(tmp_path, caplog):
    path = write(
        tmp_path,
        'batch_timeout_micros { value: 5 } thread_pool_name { value: "t" } '
        "max_enqueued_batches { value: 9 } allowed_batch_sizes: 8 allowed_batch_sizes: 16 "
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }",
    )

    with caplog.at_level(logging.INFO):
        assert read_batching_options(path) == BatchingOptions()

    assert caplog.messages == [
        f"{path}: not heeded by this server: allowed_batch_sizes, batch_timeout_micros, "
        "enable_large_batch_splitting, max_enqueued_batches, max_execution_batch_size, "
        "thread_pool_name"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("max_batch { value: 1 }", "is not a TF Serving batching", id="unknown key"),
        pytest.param(
            "max_batch_size { value: 0 }", "max_batch_size must be 1 or more, got 0", id="zero"
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        read_batching_options(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the batching parameters file .*none"):
        read_batching_options(tmp_path / "none")


def test_the_file_that_comes_with_the_project_pads_histories():
    path = Path(__file__).parents[2] / "serving" / "batching.config"

    assert read_batching_options(path).pad_variable_length_inputs

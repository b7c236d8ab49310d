"""ScaNN's ops are found without importing anything, and what is missing is one line."""

import pytest

from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.scann_ops import scann_op_library


def test_the_library_is_a_file():
    assert scann_op_library().is_file()


def test_a_missing_package_is_an_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"not installed: pip install 'scann\[tf\]"):
        scann_op_library()

"""The sample, written once for all tests that read it."""

from pathlib import Path

import pytest

from tfrs_twotower.datasets import write_dataset


@pytest.fixture(scope="session")
def sample_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `twotower dataset sample` writes; not to be changed."""
    folder = tmp_path_factory.mktemp("datasets") / "sample"
    write_dataset("sample", folder)
    return folder

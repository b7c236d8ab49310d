"""The models folder while it is written."""

import pytest

from tfrs_twotower.publishing.models_folder import staging_folder
from tfrs_twotower.schema import UserError


def test_one_command_at_a_time_writes_a_models_folder(tmp_path):
    """Or the second would remove what the first has written, and publish the rest."""
    with staging_folder(tmp_path / "models") as staging:
        (staging / "retrieval").mkdir()
        with (
            pytest.raises(UserError, match="another export or refresh is writing .*models"),
            staging_folder(tmp_path / "models"),
        ):
            pass

        assert (staging / "retrieval").is_dir()

    with staging_folder(tmp_path / "models") as staging:
        assert list(staging.iterdir()) == []
    assert list((tmp_path / "models").iterdir()) == []

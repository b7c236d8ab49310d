"""The models folder while it is written."""

from pathlib import Path

import pytest
import tensorflow as tf

from tfrs_twotower.publishing.models_folder import (
    PUBLISHED_IN_ORDER,
    latest_version,
    publish,
    staging_folder,
)
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


def test_a_full_disk_is_told_in_a_line_whatever_writes(tmp_path):
    """TensorFlow's error is none of the system; no write to `/dev/full` finds room."""
    with (
        pytest.raises(UserError, match=f"^the disk is full: make room for {tmp_path}$"),
        staging_folder(tmp_path),
    ):
        tf.io.write_file("/dev/full", "a SavedModel")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_renamed", range(len(PUBLISHED_IN_ORDER)))
def test_a_publication_that_is_killed_half_way_is_no_version(tmp_path, monkeypatch, num_renamed):
    for version in (1, 2):
        with staging_folder(tmp_path) as staging, monkeypatch.context() as patched:
            for name in PUBLISHED_IN_ORDER:
                (staging / name).mkdir()
            left = num_renamed if version == 2 else len(PUBLISHED_IN_ORDER)
            rename = Path.rename

            def killed_in_time(path, target, rename=rename):
                nonlocal left
                if not left:
                    raise KeyboardInterrupt
                left -= 1
                return rename(path, target)

            patched.setattr(Path, "rename", killed_in_time)
            if version == 1:
                assert publish(tmp_path, staging) == 1
            else:
                with pytest.raises(KeyboardInterrupt):
                    publish(tmp_path, staging)

    assert latest_version(tmp_path) == 1

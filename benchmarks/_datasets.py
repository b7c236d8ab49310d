"""Public data sets as the benchmarks use them."""

import shutil
from pathlib import Path

import pandas as pd

from tfrs_twotower.datasets.inspect import inspect_dataset, write_config


def keep_some_users(dataset: Path, one_in: int) -> None:
    """Leaves a share of the users in a dataset folder's log, evenly over their ids."""
    path = dataset / "interactions.parquet"
    events = pd.read_parquet(path)
    is_kept = events["user_id"].astype(int) % one_in == 0
    events[is_kept].to_parquet(path, index=False)


def deskdrop(folder: Path, data: Path) -> None:
    """Writes the log of DeskDrop as a dataset folder, with the config that `twotower init` drafts.

    Args:
        folder: The dataset folder.
        data: Folder of the public data sets.
    """
    folder.mkdir()
    log = data / "deskdrop" / "users_interactions.csv.gz"
    shutil.copyfile(log, folder / "interactions.csv.gz")
    write_config(folder, inspect_dataset(folder))

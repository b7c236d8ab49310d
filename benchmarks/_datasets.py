"""What the benchmarks on public data sets do to them."""

from pathlib import Path

import pandas as pd


def keep_some_users(dataset: Path, one_in: int) -> None:
    """Leaves a share of the users in a dataset folder's log, evenly over their ids."""
    path = dataset / "interactions.parquet"
    events = pd.read_parquet(path)
    is_kept = events["user_id"].astype(int) % one_in == 0
    events[is_kept].to_parquet(path, index=False)

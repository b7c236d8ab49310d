"""Public data sets that come cut into lists of ids: the NGCF and SASRec formats."""

from pathlib import Path

import numpy as np
import pandas as pd

from tfrs_twotower.datasets.files import original_file, read_bytes, reading, write_folder


def write_ngcf(folder: Path, source: Path) -> dict[str, int]:
    """Writes a dataset folder from train.txt and test.txt, a line `user item item ...` each.

    Args:
        folder: An empty folder.
        source: Folder of the two files.

    Returns:
        Rows by kind.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    parts = [
        _read_lists(original_file(source, f"{split}.txt")).assign(split=split)
        for split in ("train", "test")
    ]
    interactions = pd.concat(parts, ignore_index=True)
    counts = _write(folder, interactions, "ngcf")
    return counts | {split: len(part) for split, part in zip(("train", "test"), parts, strict=True)}


def write_sasrec(folder: Path, source: Path) -> dict[str, int]:
    """Writes a dataset folder from sasrec_*.txt: `user item` a line, a user's in order of time.

    Args, returns and raises: see `write_ngcf`.
    """
    path = original_file(source, "sasrec_*.txt")
    with reading(path):
        pairs = np.array(read_bytes(path).decode("ascii").split()).reshape(-1, 2)
    interactions = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    interactions["order"] = interactions.groupby("user_id").cumcount()
    return _write(folder, interactions, "sasrec")


def _read_lists(path: Path) -> pd.DataFrame:
    with reading(path):
        lists = [line.split() for line in read_bytes(path).decode("ascii").splitlines()]
    lengths = [max(len(tokens) - 1, 0) for tokens in lists]
    users = [tokens[0] if tokens else "" for tokens in lists]
    items = [item for tokens in lists for item in tokens[1:]]
    return pd.DataFrame({"user_id": np.repeat(users, lengths), "item_id": items}, dtype=str)


def _write(folder: Path, interactions: pd.DataFrame, name: str) -> dict[str, int]:
    # Every id is listed: the corpus of the published protocol, whatever a split leaves in train.
    items = interactions[["item_id"]].drop_duplicates()
    counts = write_folder(folder, name, {"interactions": interactions, "candidates": items})
    return counts | {"queries": interactions["user_id"].nunique()}

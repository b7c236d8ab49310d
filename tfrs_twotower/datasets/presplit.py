"""Public data sets that come cut into lists of ids: the formats of NGCF, SASRec and S3-Rec."""

import json
from pathlib import Path

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
        _pairs(_lists_of(original_file(source, f"{split}.txt"))).assign(split=split)
        for split in ("train", "test")
    ]
    interactions = pd.concat(parts, ignore_index=True)
    counts = _write(folder, interactions, "ngcf")
    return counts | {split: len(part) for split, part in zip(("train", "test"), parts, strict=True)}


def write_sasrec(folder: Path, source: Path) -> dict[str, int]:
    """Writes a dataset folder from a file of `user item ...` lines, a user's in order of time.

    SASRec's files have a line for each item, S3-Rec's one for each user, with attributes of the
    items in `<name>_item2attributes.json` beside it: item id -> list of attribute ids.

    Args:
        folder: An empty folder.
        source: The file, or a folder with one `sasrec_*.txt`; plain or `.gz`.

    Returns:
        Rows by kind.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    path = source if source.is_file() else original_file(source, "sasrec_*.txt")
    lists = _lists_of(path)
    with reading(path):
        if 1 in map(len, lists):
            raise ValueError("a user without an item")
    interactions = _pairs(lists)
    interactions["order"] = interactions.groupby("user_id").cumcount()
    name = path.name.removesuffix(".gz").removesuffix(".txt")
    beside = sorted(path.parent.glob(f"{name}_item2attributes.json*"))
    return _write(folder, interactions, "sasrec", _read_attributes(beside[0]) if beside else None)


def _lists_of(path: Path) -> list[list[str]]:
    """The ids of each line, blank ones left out: a user, then items."""
    with reading(path):
        lines = read_bytes(path).decode("ascii").splitlines()
    return [tokens for line in lines if (tokens := line.split())]


def _pairs(lists: list[list[str]]) -> pd.DataFrame:
    users = [tokens[0] for tokens in lists for _ in tokens[1:]]
    items = [item for tokens in lists for item in tokens[1:]]
    return pd.DataFrame({"user_id": users, "item_id": items}, dtype=str)


def _read_attributes(path: Path) -> dict[str, str]:
    """Attributes by item id, separated by "|"."""
    with reading(path):
        listed = json.loads(read_bytes(path))
        if not isinstance(listed, dict) or not all(isinstance(of, list) for of in listed.values()):
            raise ValueError("expected an object: item id -> list of attribute ids")
    return {item: "|".join(map(str, attributes)) for item, attributes in listed.items()}


def _write(
    folder: Path,
    interactions: pd.DataFrame,
    name: str,
    attributes: dict[str, str] | None = None,
) -> dict[str, int]:
    # Every id is listed: the corpus of the published protocol, whatever a split leaves in train.
    items = interactions[["item_id"]].drop_duplicates()
    if attributes is not None:
        items["attributes"] = items["item_id"].map(attributes).fillna("")
    counts = write_folder(folder, name, {"interactions": interactions, "candidates": items})
    return counts | {"queries": interactions["user_id"].nunique()}

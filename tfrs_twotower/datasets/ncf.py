"""MovieLens 1M as the NCF paper cut it: one test item a user, each with 99 given negatives."""

from pathlib import Path

import numpy as np
import pandas as pd

from tfrs_twotower.datasets.files import original_file, read_bytes, reading, write_folder
from tfrs_twotower.datasets.movielens import read_1m
from tfrs_twotower.schema import UserError


def write(folder: Path, source: Path) -> dict[str, int]:
    """Writes a dataset folder with NCF's ids and split, and the lists to rank in given.parquet.

    NCF's user is the original id less one, its item the rank, from 0, of the movie's first
    appearance in ratings.dat. Each user's last rating before the test item validates.

    Args:
        folder: An empty folder.
        source: Folder of MovieLens 1M with NCF's `*.test.negative` beside; its first column
            holds the pairs of `*.test.rating`.

    Returns:
        Rows by kind.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    ratings, movies, users = read_1m(source)
    codes, originals = pd.factorize(ratings["item_id"])
    item_of = pd.Series(np.arange(len(originals)).astype(str), index=originals)
    ratings = ratings.assign(
        user_id=_ncf_user(ratings["user_id"]), item_id=codes.astype(str), split="train"
    )
    path = original_file(source, "*.test.negative")
    given = _read_given(path)
    positives = given["query_id"] + " " + given["candidate_ids"].str[0]
    is_test = (ratings["user_id"] + " " + ratings["item_id"]).isin(positives)
    if is_test.sum() != len(given):
        raise UserError(f"{path} does not belong to the ratings.dat beside it: test rows not found")
    before = ratings[~is_test].sort_values("timestamp", kind="stable")
    ratings.loc[is_test, "split"] = "test"
    ratings.loc[before.groupby("user_id").tail(1).index, "split"] = "validation"
    movies = movies[movies["item_id"].isin(originals)]

    tables = {
        "interactions": ratings,
        "candidates": movies.assign(item_id=movies["item_id"].map(item_of)),
        "queries": users.assign(user_id=_ncf_user(users["user_id"])),
        "given": given,
    }
    return write_folder(folder, "ncf", tables)


def _ncf_user(user_ids: pd.Series) -> pd.Series:
    return (user_ids.astype("int64") - 1).astype(str)


def _read_given(path: Path) -> pd.DataFrame:
    """Lines `(user,item)<tab>negative<tab>negative...` as query_id and candidate_ids."""
    with reading(path):
        rows = [line.split("\t") for line in read_bytes(path).decode("ascii").splitlines()]
        pairs = [row[0].strip("()").split(",") for row in rows]
        return pd.DataFrame(
            {
                "query_id": [query_id for query_id, _ in pairs],
                "candidate_ids": [
                    [positive, *row[1:]] for (_, positive), row in zip(pairs, rows, strict=True)
                ],
            }
        )

"""MovieLens 100K and 1M from their original files."""

import csv
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tfrs_twotower.datasets.files import original_file, read_bytes, reading, write_folder

# In the order of the flags in u.item.
GENRES_100K = (
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
AGES_1M = {
    "1": "under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49", "50": "50-55",
    "56": "56 and over",
}  # fmt: skip
# By code, from 0.
OCCUPATIONS_1M = (
    "other|academic/educator|artist|clerical/admin|college/grad student|customer service|"
    "doctor/health care|executive/managerial|farmer|homemaker|K-12 student|lawyer|programmer|"
    "retired|sales/marketing|scientist|self-employed|technician/engineer|tradesman/craftsman|"
    "unemployed|writer"
)


class MovieLens(NamedTuple):
    """The three tables; ids are strings.

    `ratings`: user_id, item_id, rating (1-5), timestamp (Unix seconds), in the order of the file.
    `movies`: item_id, title, year (missing where the title has none), genres ("a|b").
    `users`: user_id, gender, age, occupation.
    """

    ratings: pd.DataFrame
    movies: pd.DataFrame
    users: pd.DataFrame


def read_100k(source: Path) -> MovieLens:
    """Reads u.data, u.item and u.user.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    ratings = _read(source, "u.data", "\t", ["user_id", "item_id", "rating", "timestamp"])
    genres = GENRES_100K.split("|")
    movies = _read(
        source, "u.item", "|", ["item_id", "title", "released", "video", "link", *genres]
    )
    flags = (movies[genres] == "1").to_numpy()
    movies["genres"] = ["|".join(itertools.compress(genres, row)) for row in flags]
    users = _read(source, "u.user", "|", ["user_id", "age", "gender", "occupation", "zip_code"])
    users["age"] = users["age"].astype("int64")
    return _tidied(ratings, movies, users)


def read_1m(source: Path) -> MovieLens:
    """Reads ratings.dat, movies.dat and users.dat.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    names = ["user_id", "item_id", "rating", "timestamp"]
    ratings = _read(source, "ratings.dat", "::", names)
    movies = _read(source, "movies.dat", "::", ["item_id", "title", "genres"])
    users = _read(source, "users.dat", "::", ["user_id", "gender", "age", "occupation", "zip_code"])
    users["age"] = users["age"].map(AGES_1M)
    users["occupation"] = users["occupation"].map(
        {str(code): name for code, name in enumerate(OCCUPATIONS_1M.split("|"))}
    )
    return _tidied(ratings, movies, users)


def write(
    folder: Path, source: Path, *, name: str, read: Callable[[Path], MovieLens]
) -> dict[str, int]:
    """Writes the files of a dataset folder.

    Args:
        folder: An empty folder.
        source: Folder of the original files.
        name: Of the config to put there.
        read: `read_100k` or `read_1m`.

    Returns:
        Rows by kind.

    Raises:
        UserError: If a file is missing or is not what its name says.
    """
    ratings, movies, users = read(source)
    tables = {"interactions": ratings, "candidates": movies, "queries": users}
    return write_folder(folder, name, tables)


def _read(source: Path, name: str, separator: str, columns: Sequence[str]) -> pd.DataFrame:
    path = original_file(source, name)
    with reading(path):
        # One character between fields, so that the fast parser reads them; no file has a tab else.
        text = read_bytes(path).decode("latin-1").replace(separator, "\t")
        table = pd.read_csv(
            io.StringIO(text),
            sep="\t",
            header=None,
            dtype=str,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
        )
        if table.shape[1] != len(columns):
            raise ValueError(
                f"expected {len(columns)} fields a line with {separator!r} between, "
                f"got {table.shape[1]}"
            )
        table.columns = pd.Index(columns)
        numbers = [column for column in columns if column in ("rating", "timestamp")]
        return table.astype(dict.fromkeys(numbers, "int64"))


def _tidied(ratings: pd.DataFrame, movies: pd.DataFrame, users: pd.DataFrame) -> MovieLens:
    year = movies["title"].str.extract(r"\((\d{4})\)\s*$")[0].astype("Int64")
    return MovieLens(
        ratings,
        movies.assign(year=year)[["item_id", "title", "year", "genres"]],
        users[["user_id", "gender", "age", "occupation"]],
    )

"""MovieLens from its original files."""

import gzip

import pandas as pd
import pytest

from tests.tfrs_twotower.datasets.originals import write_1m, write_100k
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.datasets.movielens import read_1m, read_100k
from tfrs_twotower.schema import UserError


def test_100k_ratings_keep_their_rows_and_become_typed(tmp_path):
    ratings = read_100k(write_100k(tmp_path)).ratings

    assert ratings.to_dict("list") == {
        "user_id": ["7", "8", "7"],
        "item_id": ["2", "1", "1"],
        "rating": [5, 3, 1],
        "timestamp": [881250949, 891717742, 878887116],
    }


def test_100k_films_have_their_genres_and_the_year_of_their_title(tmp_path):
    movies = read_100k(write_100k(tmp_path)).movies

    assert movies["item_id"].tolist() == ["1", "2"]
    assert movies["title"].tolist() == ["Toy Story (1995)", 'Les "Misérables"']
    assert movies["genres"].tolist() == ["Animation|Comedy", "Drama"]
    assert movies["year"].tolist() == [1995, pd.NA]


def test_100k_users_have_a_profile(tmp_path):
    users = read_100k(write_100k(tmp_path)).users

    assert users.to_dict("list") == {
        "user_id": ["7", "8"],
        "gender": ["M", "F"],
        "age": [24, 53],
        "occupation": ["technician", "other"],
    }


def test_1m_codes_are_told_in_words(tmp_path):
    users = read_1m(write_1m(tmp_path)).users

    assert users["age"].tolist() == ["under 18", "56 and over"]
    assert users["occupation"].tolist() == ["K-12 student", "self-employed"]


def test_1m_titles_may_hold_colons_commas_and_accents(tmp_path):
    movies = read_1m(write_1m(tmp_path)).movies

    assert movies["title"].tolist()[:2] == [
        "City of Lost Children, The (1995)",
        "Amélie: the film (2001)",
    ]
    assert movies["year"].tolist() == [1995, 2001, 1979, 1995]


def test_plain_and_packed_files_are_the_same(tmp_path):
    plain, packed = write_1m(tmp_path / "plain"), write_1m(tmp_path / "packed")
    ratings = packed / "ratings.dat"
    (packed / "ratings.dat.gz").write_bytes(gzip.compress(ratings.read_bytes()))
    ratings.unlink()

    pd.testing.assert_frame_equal(read_1m(plain).ratings, read_1m(packed).ratings)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"1\t2\t3\n", id="too-few-fields"),
        pytest.param(b"1\t2\tfive\t9\n", id="a-rating-in-words"),
        pytest.param(b"1\t2\t5\t9\n1\t2\t5\t9\t7\n", id="a-longer-line"),
        pytest.param(b"", id="empty"),
    ],
)
def test_a_file_of_another_shape_is_one_line_for_the_user(tmp_path, content):
    source = write_100k(tmp_path)
    (source / "u.data.gz").unlink()
    (source / "u.data").write_bytes(content)

    with pytest.raises(UserError, match=r"u\.data is not the file that its name says") as caught:
        read_100k(source)

    assert "\n" not in str(caught.value)


def test_a_broken_gz_is_one_line_for_the_user(tmp_path):
    source = write_100k(tmp_path)
    packed = source / "u.data.gz"
    packed.write_bytes(packed.read_bytes()[:-12])

    with pytest.raises(UserError, match=r"u\.data\.gz is not the file"):
        read_100k(source)


def test_the_real_100k_has_its_published_counts(public_data, tmp_path):
    counts = write_dataset("movielens-100k", tmp_path / "out", public_data / "ml-100k")
    movies = pd.read_parquet(tmp_path / "out" / "candidates.parquet")

    assert counts == {"interactions": 100_000, "candidates": 1_682, "queries": 943}
    assert movies.loc[movies["item_id"] == "1", "genres"].item() == "Animation|Children's|Comedy"
    assert movies["year"].between(1920, 1998).sum() > 1_670


@pytest.mark.slow
def test_the_real_1m_has_its_published_counts(public_data, tmp_path):
    counts = write_dataset("movielens-1m", tmp_path / "out", public_data / "ml-1m")
    ratings = pd.read_parquet(tmp_path / "out" / "interactions.parquet")

    assert counts == {"interactions": 1_000_209, "candidates": 3_883, "queries": 6_040}
    assert ratings["item_id"].nunique() == 3_706
    assert ratings["rating"].value_counts().sort_index().tolist() == [
        56_174, 107_557, 261_197, 348_971, 226_310,
    ]  # fmt: skip
    assert ratings["timestamp"].agg(["min", "max"]).tolist() == [956703932, 1046454590]

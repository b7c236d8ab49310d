"""Small files in the formats of the public data sets."""

import gzip
from pathlib import Path


def write_100k(folder: Path) -> Path:
    """MovieLens 100K: three ratings, two films, one with an accent and no year; u.data packed."""
    folder.mkdir(parents=True, exist_ok=True)
    data = "7\t2\t5\t881250949\n8\t1\t3\t891717742\n7\t1\t1\t878887116\n"
    (folder / "u.data.gz").write_bytes(gzip.compress(data.encode()))
    flags = ["0"] * 19
    toys, misery = flags.copy(), flags.copy()
    toys[3] = toys[5] = "1"  # Animation, Comedy
    misery[8] = "1"  # Drama
    lines = [
        "|".join(["1", "Toy Story (1995)", "01-Jan-1995", "", "http://a", *toys]),
        "|".join(["2", 'Les "Misérables"', "", "", "", *misery]),
    ]
    (folder / "u.item").write_text("\n".join(lines) + "\n", encoding="latin-1")
    (folder / "u.user").write_text("7|24|M|technician|85711\n8|53|F|other|94043\n")
    return folder


def write_1m(folder: Path) -> Path:
    """MovieLens 1M: users 1 and 2, films 10, 20 and 30; nobody rated film 20."""
    folder.mkdir(parents=True, exist_ok=True)
    ratings = "1::30::5::100\n1::10::3::300\n2::30::4::50\n1::40::2::200\n2::10::1::60\n"
    (folder / "ratings.dat").write_text(ratings)
    movies = [
        "10::City of Lost Children, The (1995)::Adventure|Sci-Fi",
        "20::Amélie: the film (2001)::Comedy",
        "30::Alien (1979)::Horror",
        "40::Heat (1995)::Action",
    ]
    (folder / "movies.dat").write_text("\n".join(movies) + "\n", encoding="latin-1")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return folder


def write_ngcf(folder: Path) -> Path:
    """Users 0 and 1; user 1 has no test item; item 9 stands in the test part only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text("0 3 1\n1 2\n")
    (folder / "test.txt.gz").write_bytes(gzip.compress(b"0 2 9\n1 \n"))
    return folder


def write_sasrec(folder: Path) -> Path:
    """User 5 took 30, 10, 20; user 6 took 10."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sasrec_tiny.txt").write_text("5 30\n5 10\n6 10\n5 20\n")
    return folder


def write_ncf(folder: Path) -> Path:
    """The ratings of `write_1m`, NCF's ids: films 30, 10, 40 are 0, 1, 2; users 0 and 1."""
    write_1m(folder)
    given = "(0,1)\t2\t0\n(1,1)\t0\t2\n"
    (folder / "tiny.test.negative").write_text(given)
    return folder

"""The sample keeps what it promises: sizes, effects, dirt, and an oracle worth reaching for."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.datasets.sample_titles import NOUNS

DAY_S = 86_400
COLUMNS = ["user_id", "item_id", "timestamp", "event", "thumbs"]
MORNING = {"cooking", "documentary", "music", "sport"}
EVENING = {"crime", "fantasy", "horror", "romance"}


@pytest.fixture(scope="module")
def items(sample_folder):
    return pd.read_parquet(sample_folder / "candidates.parquet").set_index("item_id")


@pytest.fixture(scope="module")
def lines(sample_folder):
    return (sample_folder / "interactions.csv").read_text("utf-8").splitlines()


def is_sound(line: str, known_items: set[str]) -> bool:
    """The rules of the sample's config, one row at a time."""
    fields = line.split(",")
    if len(fields) != len(COLUMNS):
        return False
    user, item, timestamp, event, thumbs = fields
    return (
        user != ""
        and item in known_items
        and timestamp.isdigit()
        and int(timestamp) < 1e10
        and event in ("view", "click", "purchase")
        and thumbs in ("", "-1", "1", "2")
    )


@pytest.fixture(scope="module")
def events(lines, items):
    known = set(items.index)
    sound = [line.split(",") for line in lines[1:] if is_sound(line, known)]
    events = pd.DataFrame(sound, columns=COLUMNS)
    events["timestamp"] = events["timestamp"].astype("int64")
    return events


@pytest.fixture(scope="module")
def test_start_s(events):
    """Where the last tenth of the events begins."""
    return int(np.sort(events["timestamp"])[int(0.9 * len(events))])


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_seed_writes_the_same_bytes(sample_folder, tmp_path):
    write_dataset("sample", tmp_path / "again", seed=42)

    assert digests(tmp_path / "again") == digests(sample_folder)


def test_it_has_the_promised_sizes(sample_folder, lines, events, items):
    users = pd.read_parquet(sample_folder / "queries.parquet")

    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + 200_000 + 1_000
    assert len(events) == 200_000
    assert len(users) == users["user_id"].nunique() == 5_000
    assert len(items) == 2_000
    assert items.index.is_unique
    assert events["timestamp"].max() - events["timestamp"].min() < 90 * DAY_S


def test_rows_are_malformed_in_several_ways(lines, items):
    known = set(items.index)
    malformed = [line.split(",") for line in lines[1:] if not is_sound(line, known)]
    by_width = pd.Series([len(fields) for fields in malformed]).value_counts()

    assert len(malformed) == 1_000
    assert set(by_width.index) == {2, 5, 10}  # cut off, wrong in a field, run into one
    assert sum(fields[0] == "" for fields in malformed) == 100
    assert sum(fields[1] == "" for fields in malformed) == 100
    assert sum("hover" in fields for fields in malformed) == 100


def test_a_user_takes_an_item_once(events):
    assert not events.duplicated(["user_id", "item_id"]).any()


def test_nothing_is_taken_before_it_is_there(events, items):
    available_from = items["available_from"].loc[events["item_id"]].to_numpy()

    assert (events["timestamp"].to_numpy() >= available_from).all()


def test_some_items_are_met_in_the_test_part_only(events, items, test_start_s):
    first_seen = events.groupby("item_id")["timestamp"].min()
    is_cold = first_seen >= test_start_s

    assert 20 <= is_cold.sum() <= 100
    assert (
        items["available_from"].loc[first_seen[is_cold].index] > events["timestamp"].min()
    ).all()


def test_some_users_are_met_in_the_test_part_only(events, test_start_s):
    assert (events.groupby("user_id")["timestamp"].min() >= test_start_s).sum() >= 20


def test_a_tenth_of_the_items_has_a_third_of_the_events(events):
    counts = events["item_id"].value_counts()

    assert counts.head(200).sum() / len(events) > 0.33


def test_genres_have_their_time_of_day(events, items):
    first = items["genres"].str.split("|").str[0].loc[events["item_id"]].to_numpy()
    hour = events["timestamp"] // 3600 % 24
    is_morning, is_evening = hour.between(6, 11).to_numpy(), hour.between(18, 23).to_numpy()

    def odds(when):
        return np.isin(first[when], [*MORNING]).sum() / np.isin(first[when], [*EVENING]).sum()

    assert odds(is_morning) > 2 * odds(is_evening)


def test_what_is_bought_is_liked_better_than_what_is_viewed(events):
    thumbs = events[events["thumbs"] != ""]
    is_up = thumbs["thumbs"] != "-1"
    share = is_up.groupby(thumbs["event"]).mean()

    assert share["purchase"] > share["click"] > share["view"]


def test_titles_are_distinct_and_tell_the_genre(items):
    first = items["genres"].str.split("|").str[0]
    tells = [
        any(noun in title for noun in NOUNS[genre].split())
        for title, genre in zip(items["title"], first, strict=True)
    ]

    assert items["title"].is_unique
    assert all(tells)


def test_alike_vectors_mean_alike_genres(items):
    vectors = np.stack(items["content"].to_numpy())
    first = items["genres"].str.split("|").str[0].to_numpy()
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)

    assert (first[scores.argmax(axis=1)] == first).mean() > 0.6


@pytest.fixture(scope="module")
def rankings(sample_folder):
    table = pd.read_parquet(sample_folder / "oracle.parquet")
    return table.set_index("query_id")["candidate_ids"].map(list)


def mean_recall_at_10(events, test_start_s, ranking_of):
    """Recall@10 of the default split's test positives, train items left out of the lists."""
    positives = events[events["thumbs"] != "-1"]
    train_end_s = int(np.sort(events["timestamp"])[int(0.8 * len(events))])
    train = positives[positives["timestamp"] < train_end_s]
    taken = train.groupby("user_id")["item_id"].agg(set).to_dict()
    test = positives[positives["timestamp"] >= test_start_s]
    recalls = []
    for user, relevant in test.groupby("user_id")["item_id"]:
        seen = taken.get(user, set())
        best = [item for item in ranking_of(user) if item not in seen][:10]
        recalls.append(len(set(best) & set(relevant)) / len(relevant))
    return np.mean(recalls)


def test_the_oracle_is_more_than_eight_times_better_than_popularity(events, test_start_s, rankings):
    train_end_s = int(np.sort(events["timestamp"])[int(0.8 * len(events))])
    is_train = (events["timestamp"] < train_end_s) & (events["thumbs"] != "-1")
    popular = events.loc[is_train, "item_id"].value_counts().index.tolist()

    oracle = mean_recall_at_10(events, test_start_s, lambda user: rankings[user])
    popularity = mean_recall_at_10(events, test_start_s, lambda user: popular)

    assert oracle > 8 * popularity
    assert oracle > 0.2


def test_the_oracle_ranks_200_items_that_the_user_did_not_take_before(
    events, test_start_s, rankings
):
    before = events[events["timestamp"] < test_start_s]
    taken = before.groupby("user_id")["item_id"].agg(set)

    assert all(len(set(ranking)) == 200 for ranking in rankings)
    assert all(taken.get(user, set()).isdisjoint(items) for user, items in rankings.items())

"""The latest events of queries, and queries completed with them."""

import itertools

import pytest
from bson import ObjectId

from serving.histories import Histories
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.mongodb import CurrentVersion, Store

VERSION = CurrentVersion(
    write=ObjectId("0" * 24),
    model_version=1,
    schema_fingerprint="",
    embedding_dim=2,
    num_candidates=4,
    num_queries=1,
    has_query_embeddings=False,
    query_key="user_id",
    features=["user_id", "age", "history"],
    history="history",
    history_length=3,
    exclude_known=True,
)
KNOWN = {"age": 40.0, "history": ["a", "b"], "exclude_ids": ["a", "b", "z"]}
PROFILE = {"age": 40.0, "exclude_ids": ["a"]}


@pytest.fixture
def histories(database):
    with Histories(database, limit=3) as opened:
        yield opened


@pytest.fixture
def write(database):
    """Writes a version with one query."""
    store = Store(database)

    def write(*, known=KNOWN, **changes):
        version = CurrentVersion(**{**vars(VERSION), **changes})
        store.queries(version).insert_one({"_id": "42", "features": known})
        store.database["versions"].insert_one({"_id": "current", **vars(version)})

    yield write
    store.close()


def test_events_are_kept_by_time_in_whatever_order_they_come(histories):
    events = [("c", 30.0), ("a", 10), ("b", 20.5)]
    for user, order in enumerate(itertools.permutations(events)):
        for candidate, at in order:
            histories.append(str(user), candidate, at)

        assert histories.latest(str(user)) == ["a", "b", "c"]


def test_events_of_equal_time_are_ordered_by_candidate(histories):
    for candidate in ["b", "c", "a"]:
        histories.append("42", candidate, 7)

    assert histories.latest("42") == ["a", "b", "c"]


def test_the_same_event_again_changes_nothing(histories):
    for _ in range(3):
        histories.append("42", "a", 1)
    histories.append("42", "a", 2)  # The same candidate again is another event.

    assert histories.latest("42") == ["a", "a"]


def test_the_oldest_events_are_forgotten(histories, database):
    for candidate, at in [("d", 4), ("c", 3), ("e", 5), ("b", 2), ("f", 6), ("f", 6), ("a", 1)]:
        histories.append("42", candidate, at)
    histories.append("43", "a", 1)

    assert histories.latest("42") == ["d", "e", "f"]
    assert histories.latest("43") == ["a"]
    store = Store(database)
    assert store.database["events"].count_documents({}) == 4
    store.close()


def test_a_query_is_completed_with_profile_and_latest_events(histories, write):
    write()
    histories.append("42", "c", 1)
    histories.append("42", "d", 2)

    assert histories.complete({"user_id": "42", "clock": 5}) == {
        "user_id": "42",
        "clock": 5,
        "age": 40.0,
        "history": ["b", "c", "d"],  # The model reads three.
        "exclude_ids": ["a", "b", "c", "d", "z"],
    }


def test_what_a_query_gives_itself_holds(histories, write):
    write()
    histories.append("42", "c", 1)
    query = {"user_id": "42", "history": ["x"], "exclude_ids": ["y"], "age": None}

    completed = histories.complete(query)

    assert completed["history"] == ["x"]
    assert completed["age"] is None
    assert completed["exclude_ids"] == ["a", "b", "c", "x", "y", "z"]


def test_known_positives_stay_in_the_answer_where_that_is_asked(histories, write):
    write()
    histories.append("42", "c", 1)

    completed = histories.complete({"user_id": "42"}, exclude_known=False)

    assert "exclude_ids" not in completed
    assert completed["history"] == ["a", "b", "c"]


def test_a_query_that_is_not_known_has_its_latest_events(histories, write):
    write()
    histories.append("new", "c", 1)

    assert histories.complete({"user_id": "new"}) == {
        "user_id": "new",
        "age": None,
        "history": ["c"],
        "exclude_ids": ["c"],
    }


def test_a_query_without_its_id_is_anonymous(histories, write):
    write()

    expected = {"user_id": None, "age": 3.0, "history": [], "exclude_ids": []}
    assert histories.complete({"age": 3.0}) == expected


def test_without_a_history_events_are_left_out_of_answers_alone(histories, write):
    write(features=["age"], history=None, history_length=0, query_key="user", known=PROFILE)
    histories.append("42", "c", 1)

    # The id is none of the model's inputs.
    assert histories.complete({"user": "42"}) == {"age": 40.0, "exclude_ids": ["a", "c"]}


def test_a_server_that_does_not_answer_is_told_without_the_password():
    address = "mongodb://name:secret@127.0.0.1:1/shop?serverSelectionTimeoutMS=50"

    with pytest.raises(UserError) as told:
        Histories(address)

    assert str(told.value) == (
        "no MongoDB server answers at mongodb://127.0.0.1:1/shop: is it running?"
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        pytest.param("http://127.0.0.1/shop", "no address of MongoDB", id="scheme"),
        pytest.param("mongodb://name:secret@host:x/shop", "no address of MongoDB", id="port"),
        pytest.param("mongodb://name:secret@host", "names no database", id="no database"),
    ],
)
def test_a_wrong_address_is_told_without_the_password(address, said):
    with pytest.raises(UsageError, match=said) as told:
        Histories(address)

    assert "secret" not in str(told.value)


def test_a_limit_must_be_positive():
    with pytest.raises(UsageError, match="limit must be at least 1, got 0"):
        Histories("mongodb://127.0.0.1/shop", limit=0)

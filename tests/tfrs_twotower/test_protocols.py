"""What an evaluation asks: who, what counts as right, and what is not eligible."""

import numpy as np
import pytest

from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data import PreparedData
from tfrs_twotower.protocols import EvaluationSet, evaluation_set
from tfrs_twotower.schema import Config, UsageError, UserError, parse_config

QUERIES = ["ann", "bob", "eve"]
CANDIDATES = ["a", "b", "c", "d", "e", "f"]


def config() -> Config:
    return parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}}\n"
        "  context: {mood: {kind: number}}\n"
        "  candidate: {item: {kind: id}}",
        "test.yaml",
    )


def event(query: str, candidate: str, time: int, *, label: int = 1) -> Example:
    """An event whose mood is its time."""
    encoded = {"user": 2 + QUERIES.index(query), "mood": float(time)}
    return Example(query, candidate, encoded, timestamp_s=time, label=label)


def folder_of(folder, **examples) -> PreparedData:
    write_prepared_folder(
        folder,
        config(),
        vocabularies={"user": QUERIES, "item": CANDIDATES},
        candidates={name: {"item": 2 + row} for row, name in enumerate(CANDIDATES)},
        examples=examples,
        numbers={},
    )
    return PreparedData(folder, config())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ann and bob are in train, eve is not; files hold the events in no order."""
    return folder_of(
        tmp_path_factory.mktemp("data") / "prepared",
        train=[
            event("bob", "c", 1),
            event("ann", "b", 2),
            event("ann", "a", 1),
            event("ann", "f", 3, label=0),
        ],
        validation=[
            event("eve", "a", 12),
            event("ann", "b", 11),  # had it in train
            event("bob", "c", 11),  # had it in train, and nothing else here
            event("ann", "d", 9, label=0),
            event("ann", "c", 10),
            event("eve", "e", 10),
        ],
        test=[
            event("ann", "f", 22),
            event("ann", "e", 21),
            event("ann", "c", 20),  # had it in validation
            event("eve", "d", 23),
            event("eve", "d", 21),
        ],
    )


def by_query(asked: EvaluationSet) -> list[tuple[str, str, str]]:
    """(query, its relevant candidates, its excluded candidates), in the order of the queries."""

    def of(pairs, number):
        rows = pairs.candidate_rows[pairs.queries == number]
        return "".join(CANDIDATES[row] for row in rows)

    return [
        (QUERIES[row], of(asked.positives, number), of(asked.excluded, number))
        for number, row in enumerate(asked.query_rows)
    ]


def test_a_user_is_asked_once_for_all_that_is_new_to_her(data):
    asked = evaluation_set(data, "validation")

    assert by_query(asked) == [("ann", "c", "ab"), ("eve", "ae", "")]


def test_the_test_split_excludes_the_positives_of_train_and_of_validation(data):
    asked = evaluation_set(data, "test")

    assert by_query(asked) == [("ann", "ef", "abc"), ("eve", "d", "ae")]


def test_relevant_candidates_that_are_left_out_are_counted(data):
    assert evaluation_set(data, "validation").num_known == 2
    assert evaluation_set(data, "test").num_known == 1


def test_a_user_is_asked_as_she_is_at_her_first_event_of_the_split(data):
    asked = evaluation_set(data, "validation")

    assert asked.features["mood"].tolist() == [10.0, 10.0]
    assert asked.features["user"].tolist() == [2, 4]


def test_an_event_is_a_query_of_its_own_with_one_relevant_candidate(data):
    asked = evaluation_set(data, "test", unit="event")

    assert by_query(asked) == [
        ("ann", "e", "abc"),
        ("ann", "f", "abc"),
        ("eve", "d", "ae"),
        ("eve", "d", "ae"),
    ]
    assert asked.features["mood"].tolist() == [21.0, 22.0, 21.0, 23.0]


def test_known_candidates_may_stay_eligible(data):
    asked = evaluation_set(data, "validation", exclude_known=False)

    assert by_query(asked) == [("ann", "bc", ""), ("bob", "c", ""), ("eve", "ae", "")]
    assert asked.num_known == 0


def test_train_excludes_nothing_of_its_own(data):
    assert by_query(evaluation_set(data, "train")) == [("ann", "ab", ""), ("bob", "c", "")]


def test_only_features_of_the_query_tower_are_given_to_it(data):
    assert sorted(evaluation_set(data, "test").features) == ["mood", "user"]


@pytest.mark.parametrize("unit", ["user", "event"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_relevant_candidate_is_excluded_and_no_query_has_none(data, split, unit):
    asked = evaluation_set(data, split, unit=unit)

    relevant = set(zip(*asked.positives, strict=True))
    assert not relevant & set(zip(*asked.excluded, strict=True))
    assert {query for query, _ in relevant} == set(range(len(asked.query_rows)))
    for pairs in (asked.positives, asked.excluded):
        assert (np.diff(pairs.queries) >= 0).all()


def test_an_unknown_split_is_told_with_those_there_are(data):
    with pytest.raises(UsageError, match="unknown split 'tests': expected one of train, val"):
        evaluation_set(data, "tests")


@pytest.mark.parametrize(
    "test",
    [
        pytest.param([], id="no-event"),
        pytest.param([event("ann", "b", 9, label=0)], id="no-positive"),
        pytest.param([event("ann", "a", 9)], id="nothing-new"),
    ],
)
@pytest.mark.parametrize("unit", ["user", "event"])
def test_a_split_with_nothing_to_find_is_told_and_not_a_metric_of_zero(tmp_path, test, unit):
    data = folder_of(tmp_path / "prepared", train=[event("ann", "a", 1)], test=test)

    with pytest.raises(UserError, match="the test split has no positive that its query did not"):
        evaluation_set(data, "test", unit=unit)

"""What an evaluation asks: who, what counts as right, and what is not eligible."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.protocols import (
    EvaluationSet,
    Protocol,
    draw_others,
    load_evaluation_set,
    parse_protocol,
    under_protocol,
)
from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.schema import Config, UsageError, UserError, parse_config
from tfrs_twotower.schema.rules import Rules

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


def event(query: str, candidate: str, time: int, *, label: int = 1, weight: float = 1.0) -> Example:
    """An event whose mood is its time."""
    encoded = {"user": 2 + QUERIES.index(query), "mood": float(time)}
    return Example(query, candidate, encoded, timestamp_s=time, label=label, weight=weight)


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


def by_query(evaluation_set: EvaluationSet) -> list[tuple[str, str, str]]:
    """(query, its relevant candidates, its excluded candidates), in the order of the queries."""

    def of(pairs, number):
        rows = pairs.candidate_rows[pairs.queries == number]
        return "".join(CANDIDATES[row] for row in rows)

    return [
        (QUERIES[row], of(evaluation_set.positives, number), of(evaluation_set.excluded, number))
        for number, row in enumerate(evaluation_set.query_rows)
    ]


def test_a_user_is_one_query_whose_new_positives_are_relevant(data):
    evaluation_set = load_evaluation_set(data, "validation")

    assert by_query(evaluation_set) == [("ann", "c", "ab"), ("eve", "ae", "")]


def test_the_test_split_excludes_the_positives_of_train_and_of_validation(data):
    evaluation_set = load_evaluation_set(data, "test")

    assert by_query(evaluation_set) == [("ann", "ef", "abc"), ("eve", "d", "ae")]


def test_relevant_candidates_that_are_left_out_are_counted(data):
    assert load_evaluation_set(data, "validation").num_known == 2
    assert load_evaluation_set(data, "test").num_known == 1


def test_a_user_has_the_features_of_the_first_event_of_the_split(data):
    evaluation_set = load_evaluation_set(data, "validation")

    assert evaluation_set.features["mood"].tolist() == [10.0, 10.0]
    assert evaluation_set.features["user"].tolist() == [2, 4]


def test_an_event_is_a_query_of_its_own_with_one_relevant_candidate(data):
    evaluation_set = load_evaluation_set(data, "test", unit="event")

    assert by_query(evaluation_set) == [
        ("ann", "e", "abc"),
        ("ann", "f", "abc"),
        ("eve", "d", "ae"),
        ("eve", "d", "ae"),
    ]
    assert evaluation_set.features["mood"].tolist() == [21.0, 22.0, 21.0, 23.0]


def test_known_candidates_may_stay_eligible(data):
    evaluation_set = load_evaluation_set(data, "validation", exclude_known=False)

    assert by_query(evaluation_set) == [("ann", "bc", ""), ("bob", "c", ""), ("eve", "ae", "")]
    assert evaluation_set.num_known == 0
    assert not evaluation_set.excludes_known


def test_known_candidates_are_eligible_where_the_config_wants_repeats(data):
    repeats = Rules(exclude_known=False)
    wanted = PreparedData(data.folder, config().model_copy(update={"rules": repeats}))

    found = load_evaluation_set(wanted, "validation")

    assert by_query(found) == by_query(load_evaluation_set(data, "validation", exclude_known=False))
    assert load_evaluation_set(wanted, "validation", exclude_known=True).num_known == 2


def test_train_excludes_nothing_of_its_own(data):
    assert by_query(load_evaluation_set(data, "train")) == [("ann", "ab", ""), ("bob", "c", "")]


def test_only_features_of_the_query_tower_are_given_to_it(data):
    assert sorted(load_evaluation_set(data, "test").features) == ["mood", "user"]


@pytest.mark.parametrize("unit", ["user", "event"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_no_relevant_candidate_is_excluded_and_no_query_has_none(data, split, unit):
    evaluation_set = load_evaluation_set(data, split, unit=unit)

    relevant = set(zip(*evaluation_set.positives, strict=True))
    assert not relevant & set(zip(*evaluation_set.excluded, strict=True))
    assert {query for query, _ in relevant} == set(range(len(evaluation_set.query_rows)))
    for pairs in (evaluation_set.positives, evaluation_set.excluded):
        assert (np.diff(pairs.queries) >= 0).all()


def test_an_unknown_split_is_told_with_those_there_are(data):
    with pytest.raises(UsageError, match="unknown split 'tests': expected one of train, val"):
        load_evaluation_set(data, "tests")


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
        load_evaluation_set(data, "test", unit=unit)


def test_only_positives_of_enough_weight_are_relevant(tmp_path):
    data = folder_of(
        tmp_path / "prepared",
        train=[event("ann", "a", 1)],
        test=[
            event("ann", "b", 5, weight=0.5),
            event("ann", "c", 6, weight=2.0),
            event("bob", "d", 7, weight=0.5),
        ],
    )

    assert by_query(load_evaluation_set(data, "test", relevant_from=1.0)) == [("ann", "c", "a")]
    assert by_query(load_evaluation_set(data, "test", relevant_from=0.5)) == [
        ("ann", "bc", "a"),
        ("bob", "d", ""),
    ]
    with pytest.raises(UserError, match="no positive of weight 3.0 or more that its query did not"):
        load_evaluation_set(data, "test", relevant_from=3.0)


# --- among fewer candidates -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full", Protocol("full")),
        ("sampled:100", Protocol("sampled", num_sampled=100)),
        ("popular:7", Protocol("popular", num_sampled=7)),
        ("given:a/b.parquet", Protocol("given", lists=Path("a/b.parquet"))),
    ],
)
def test_a_protocol_is_read_from_its_name(text, expected):
    assert parse_protocol(text) == expected


@pytest.mark.parametrize(
    "text", ["sampled", "sampled:0", "sampled:-3", "popular:x", "given", "given:", "all", "full:3"]
)
def test_a_protocol_that_does_not_exist_is_told_with_those_that_do(text):
    with pytest.raises(UsageError, match="expected full, sampled:N .* popular:N .* or given:FILE"):
        parse_protocol(text)


def question(num_queries: int, positives: Pairs, excluded: Pairs) -> EvaluationSet:
    features = {"number": np.arange(num_queries)}
    return EvaluationSet(features, np.arange(num_queries), positives, excluded, num_known=0)


def some_question(num_queries: int, corpus_size: int) -> EvaluationSet:
    """Each query has one relevant candidate and two that are excluded."""
    queries = np.arange(num_queries)
    twice = np.repeat(queries, 2)
    return question(
        num_queries,
        Pairs(queries, queries % corpus_size),
        Pairs(twice, (twice + 1 + np.tile([0, 1], num_queries)) % corpus_size),
    )


def test_drawn_candidates_are_distinct_and_neither_relevant_nor_excluded():
    evaluation_set = some_question(700, 40)

    drawn = draw_others(evaluation_set, np.ones(40, np.int64), 30, seed=1)

    pairs = list(zip(*drawn, strict=True))
    assert len(set(pairs)) == len(pairs) == 700 * 30
    assert not set(pairs) & set(zip(*evaluation_set.positives, strict=True))
    assert not set(pairs) & set(zip(*evaluation_set.excluded, strict=True))


def test_a_small_corpus_gives_all_that_is_left():
    drawn = draw_others(some_question(3, 10), np.ones(10, np.int64), 100, seed=1)

    assert Counter(drawn.queries.tolist()) == {0: 7, 1: 7, 2: 7}


def test_every_candidate_is_drawn_alike():
    nothing = Pairs(*np.zeros([2, 0], np.int64))
    evaluation_set = question(6000, Pairs(np.arange(6000), np.zeros(6000, np.int64)), nothing)

    drawn = draw_others(evaluation_set, np.ones(21, np.int64), 5, seed=2)

    # 5 of 20: a quarter each, standard deviation 0.0056.
    shares = np.bincount(drawn.candidate_rows, minlength=21) / 6000
    assert shares[0] == 0.0
    np.testing.assert_allclose(shares[1:], 0.25, atol=0.025)


def test_the_first_popular_candidate_is_drawn_in_proportion_to_its_count():
    nothing = Pairs(*np.zeros([2, 0], np.int64))
    evaluation_set = question(8000, Pairs(np.arange(8000), np.zeros(8000, np.int64)), nothing)

    drawn = draw_others(evaluation_set, np.array([50, 6, 3, 1, 0]), 1, seed=3)

    shares = np.bincount(drawn.candidate_rows, minlength=5) / 8000
    np.testing.assert_allclose(shares, [0.0, 0.6, 0.3, 0.1, 0.0], atol=0.02)


def test_the_seed_decides_what_is_drawn():
    evaluation_set, weights = some_question(300, 40), np.ones(40, np.int64)

    first, again, other = (draw_others(evaluation_set, weights, 9, seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert (np.stack(first) != np.stack(other)).any()


def test_a_sampled_list_holds_the_relevant_candidates_and_those_drawn():
    evaluation_set = some_question(5, 30)

    sampled = under_protocol(
        evaluation_set,
        parse_protocol("sampled:8"),
        query_ids=np.array(list("vwxyz")),
        candidate_ids=np.arange(30).astype(str),
        train_counts=np.ones(30, np.int64),
        seed=1,
    )

    listed = set(zip(*sampled.listed, strict=True))
    assert Counter(query for query, _ in listed) == dict.fromkeys(range(5), 9)
    assert set(zip(*evaluation_set.positives, strict=True)) < listed
    assert sampled.protocol == "sampled-8"
    assert (np.diff(sampled.listed.queries) >= 0).all()


@pytest.fixture
def given_lists(tmp_path):
    def under(lists, evaluation_set):
        table = pd.DataFrame({"query_id": list(lists), "candidate_ids": list(lists.values())})
        table.to_parquet(tmp_path / "given.parquet")
        return under_protocol(
            evaluation_set,
            parse_protocol(f"given:{tmp_path / 'given.parquet'}"),
            query_ids=np.array(["ann", "bob", "eve"]),
            candidate_ids=np.array(CANDIDATES),
            train_counts=np.ones(6, np.int64),
            seed=1,
        )

    return under


def test_given_lists_say_themselves_what_is_eligible(given_lists):
    evaluation_set = question(
        3,
        Pairs(np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3])),
        Pairs(np.array([2]), np.array([4])),
    )

    given = given_lists(
        {"eve": ["f", "d", "e", "nobody"], "ann": ["b", "c"], "bob": ["a"]}, evaluation_set
    )

    # Ann's a is in no list of hers, bob's list lacks his c: he is not evaluation_set.
    assert given.query_rows.tolist() == [0, 2]
    assert given.features["number"].tolist() == [0, 2]
    assert list(zip(*given.positives, strict=True)) == [(0, 1), (1, 3)]
    assert list(zip(*given.listed, strict=True)) == [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    assert not len(given.excluded.queries)
    assert (given.protocol, given.num_left_out) == ("given-given", 1)


def test_given_lists_of_another_world_are_told(given_lists):
    evaluation_set = question(
        3,
        Pairs(np.arange(3), np.arange(3)),
        Pairs(*np.zeros([2, 0], np.int64)),
    )

    with pytest.raises(UserError, match="no list holds a relevant candidate of its query: are"):
        given_lists({"ann": ["f"], "zoe": ["a"]}, evaluation_set)


def test_some_of_the_queries_keep_what_is_theirs():
    evaluation_set = some_question(5, 30)._replace(
        listed=Pairs(np.array([0, 3, 4]), np.array([9, 8, 7]))
    )

    part = evaluation_set.take(np.array([1, 3]))

    assert part.query_rows.tolist() == part.features["number"].tolist() == [1, 3]
    assert list(zip(*part.positives, strict=True)) == [(0, 1), (1, 3)]
    assert list(zip(*part.excluded, strict=True)) == [(0, 2), (0, 3), (1, 4), (1, 5)]
    assert list(zip(*part.listed, strict=True)) == [(1, 8)]

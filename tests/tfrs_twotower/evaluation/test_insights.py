"""Popularity profiles and example users, against planted rankings."""

import numpy as np
import pandas as pd
import pytest

from tests import every_kind
from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation import insights
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.ranking import Pairs, Ranking
from tfrs_twotower.schema import UserError

NOTHING = Pairs(*np.zeros([2, 0], np.int64))


def evaluation_set_of(*positives: tuple[int, int]) -> EvaluationSet:
    queries, rows = np.array(positives, np.int64).T
    return EvaluationSet({}, np.unique(queries), Pairs(queries, rows), NOTHING, num_known=0)


def ranking(ranks: list[int], *lists: list[int]) -> Ranking:
    return Ranking(np.array(ranks), np.array(lists))


# --- popularity -----------------------------------------------------------------------------


def test_lists_and_choices_are_told_by_tenths_of_the_order_of_popularity():
    # 20 candidates, two a tenth; counts fall with the row, so rows 0 and 1 are the first tenth.
    corpus = Corpus({}, np.arange(20).astype(str), np.arange(20, 0, -1))
    rankings = {
        "popular": ranking([1, 1], [0, 1], [1, 0]),
        "long": ranking([9, 9], [19, -1], [4, 2]),
    }

    found = insights.popularity_profile(rankings, evaluation_set_of((0, 3), (1, 18)), corpus)

    assert found["popular"] == [1.0] + [0.0] * 9
    np.testing.assert_allclose(found["long"], [0, 1 / 3, 1 / 3, *[0] * 6, 1 / 3])
    assert found["consumed"] == [0, 0.5, *[0] * 7, 0.5]


def test_a_corpus_smaller_than_ten_has_empty_tenths():
    corpus = Corpus({}, np.array(["a", "b"]), np.array([1, 2]))

    found = insights.popularity_profile(
        {"it": ranking([1], [1])}, evaluation_set_of((0, 0)), corpus
    )

    assert sum(found["it"]) == sum(found["consumed"]) == 1.0


@pytest.mark.parametrize(
    ("entries", "wanted", "expected"), [(3, 6, [0, 1, 2]), (9, 3, [0, 4, 8]), (1, 4, [0])]
)
def test_positions_are_evenly_spaced_from_the_first_to_the_last(entries, wanted, expected):
    assert insights.evenly_spaced(entries, wanted).tolist() == expected


# --- users ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = every_kind.config()
    folder = every_kind.write_prepared(tmp_path_factory.mktemp("data") / "prepared", config)
    path = folder / "candidate_attributes-00000-of-00001.parquet"
    attributes = pd.read_parquet(path)
    attributes["title"] = [None, *(f"Title of {name}" for name in attributes["candidate_id"][1:])]
    attributes.to_parquet(path)
    return PreparedData(folder, config)


def test_a_user_is_shown_with_what_she_had_got_and_chose(data):
    evaluation_set, corpus = load_evaluation_set(data, "test"), data.corpus()
    ranks = 1 + np.arange(len(evaluation_set.positives.queries))
    lists = np.full([len(evaluation_set.query_rows), 3], -1)
    lists[:, 0] = evaluation_set.positives.candidate_rows[0]
    query_id = data.query_ids()[evaluation_set.query_rows[0]]

    shown = insights.users(data, corpus, evaluation_set, Ranking(ranks, lists), [query_id])[0]

    # Row 0 is padding, row 1 unknown, row 2 item-0.
    held = [row for row in evaluation_set.features["recent"][0].tolist() if row]
    history = ["(unknown)" if row == 1 else f"item-{row - 2}" for row in held]
    chosen = evaluation_set.positives.candidate_rows[evaluation_set.positives.queries == 0]
    assert shown["query_id"] == query_id
    assert [entry["candidate_id"] for entry in shown["history"]] == history[::-1]
    assert [(entry["candidate_id"], entry["is_relevant"]) for entry in shown["recommended"]] == [
        (corpus.candidate_ids[chosen[0]], True)
    ]
    assert [entry["candidate_id"] for entry in shown["chosen"]] == [
        corpus.candidate_ids[row] for row in chosen
    ]
    assert [entry["rank"] for entry in shown["chosen"]] == ranks[: len(chosen)].tolist()


def test_titles_are_shown_where_there_are_some(data):
    evaluation_set, corpus = load_evaluation_set(data, "test"), data.corpus()
    rows = np.arange(len(corpus))[np.newaxis].repeat(len(evaluation_set.query_rows), axis=0)

    shown = insights.users(
        data, corpus, evaluation_set, Ranking(evaluation_set.positives.queries, rows)
    )

    attributes = pd.read_parquet(data.folder / "candidate_attributes-00000-of-00001.parquet")
    expected = attributes.set_index("candidate_id")["title"].fillna("").to_dict()
    assert {entry["candidate_id"]: entry["title"] for entry in shown[0]["recommended"]} == expected


def test_a_user_that_is_not_evaluated_is_told(data):
    evaluation_set = load_evaluation_set(data, "test")
    lists = np.zeros([len(evaluation_set.query_rows), 1], np.int64)

    with pytest.raises(
        UserError, match="user 'nobody' is not among the .* users evaluated: expect"
    ):
        insights.users(
            data,
            data.corpus(),
            evaluation_set,
            Ranking(evaluation_set.positives.queries, lists),
            ["nobody"],
        )

"""Parts of an evaluation: who and what belongs to each."""

import numpy as np
import pytest

from tests import every_kind
from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation import slices as slices_module
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.evaluation.slices import is_in_head, slices_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = every_kind.config()
    folder = every_kind.write_prepared(tmp_path_factory.mktemp("data") / "prepared", config)
    return PreparedData(folder, config)


@pytest.fixture(scope="module")
def slices(data):
    return slices_of(data, data.corpus(), load_evaluation_set(data, "test"))


def corpus_of(*counts: int) -> Corpus:
    return Corpus({}, np.arange(len(counts)).astype(str), np.array(counts))


def test_the_head_is_the_most_popular_fifth_and_equal_counts_go_by_id():
    assert is_in_head(corpus_of(1, 9, 3, 3, 0, 9, 2, 3, 0, 1)).tolist() == [
        *(False, True, False, False, False, True, False, False, False, False)
    ]
    assert is_in_head(corpus_of(2, 2, 2, 2, 2)).tolist() == [True, False, False, False, False]


def test_a_corpus_of_one_is_all_head():
    assert is_in_head(corpus_of(0)).tolist() == [True]


@pytest.mark.parametrize(
    "parts",
    [("warm", "cold"), ("known candidates", "new candidates"), ("head", "tail")],
    ids=lambda parts: parts[0],
)
def test_two_halves_make_the_whole(slices, parts):
    both = np.stack([slices[part].is_positive for part in parts])

    assert (both.sum(0) == 1).all()
    assert slices["all"].is_positive.all()


def test_a_value_of_a_query_feature_is_a_part_of_the_queries(data, slices):
    evaluation_set = load_evaluation_set(data, "test")

    # plan: row 0 missing, rows 1 and 2 unknown, then free and paid.
    plans = evaluation_set.features["plan"][evaluation_set.positives.queries]
    expected = {"free": plans == 3, "paid": plans == 4, "(none)": plans == 0}
    for value, chosen in expected.items():
        if chosen.any():
            assert slices[f"plan={value}"].is_of_queries
            np.testing.assert_array_equal(slices[f"plan={value}"].is_positive, chosen)


def test_a_value_of_a_candidate_feature_is_a_part_of_the_relevant_candidates(data, slices):
    evaluation_set = load_evaluation_set(data, "test")

    # language: row 0 missing, row 1 unknown, then en and fr.
    languages = data.corpus().features["language"][evaluation_set.positives.candidate_rows]
    assert not slices["language=fr"].is_of_queries
    np.testing.assert_array_equal(slices["language=fr"].is_positive, languages == 3)


def test_what_has_several_values_belongs_to_the_part_of_each(data, slices):
    evaluation_set = load_evaluation_set(data, "test")

    # genres: row 0 padding, row 1 unknown, then drama, comedy and crime.
    genres = [set(rows) - {0} for rows in data.corpus().features["genres"].tolist()]
    of_positives = [genres[row] for row in evaluation_set.positives.candidate_rows]
    for value, row in {"(unknown)": 1, "drama": 2, "comedy": 3, "crime": 4}.items():
        found = slices[f"genres={value}"].is_positive.tolist()
        assert found == [row in rows for rows in of_positives]
    assert slices["genres=(none)"].is_positive.tolist() == [not rows for rows in of_positives]
    assert any(len(rows) > 1 for rows in of_positives)


def test_values_beyond_the_most_frequent_are_counted_and_kept_together(data, monkeypatch):
    monkeypatch.setattr(slices_module, "MAX_VALUES", 1)
    evaluation_set = load_evaluation_set(data, "test")

    slices = slices_of(data, data.corpus(), evaluation_set)

    named = {name.partition("=")[2] for name in slices if name.startswith("genres=")}
    assert named == {"drama", "(2 others)", "(none)", "(unknown)"}
    genres = data.corpus().features["genres"][evaluation_set.positives.candidate_rows]
    is_other = slices["genres=(2 others)"].is_positive
    assert is_other.tolist() == [bool({3, 4} & set(rows)) for rows in genres.tolist()]


def test_a_truth_value_makes_parts_too(data, slices):
    evaluation_set = load_evaluation_set(data, "test")

    member = evaluation_set.features["member"][evaluation_set.positives.queries]
    np.testing.assert_array_equal(slices["member=true"].is_positive, member == 1.0)
    np.testing.assert_array_equal(slices["member=false"].is_positive, member == 0.0)


def test_every_query_has_one_value_of_a_feature(slices):
    for feature in ("plan", "member", "language"):
        parts = [part for name, part in slices.items() if name.startswith(f"{feature}=")]
        assert (np.sum([part.is_positive for part in parts], axis=0) == 1).all()

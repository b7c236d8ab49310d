import pytest

from tests.tfrs_twotower.evaluation.explore.conftest import make_version


def test_a_candidate_without_a_title_is_called_by_its_id(version):
    assert version.titles[2:4] == ["Milk", "d"]


def test_attributes_are_text_and_missing_ones_are_left_out(version):
    assert version.attributes(1) == {"kinds": "tea, green", "price": "2"}
    assert version.attributes(2) == {"kinds": "milk"}
    assert version.attributes(3) == {"price": "4"}


def test_times_are_shown_as_days(version):
    candidates = version.candidates.assign(available_from=1_700_000_000)

    found = make_version(candidates=candidates).attributes(2)

    assert found == {"kinds": "milk", "available_from": "2023-11-14"}


def test_popularity_counts_the_queries_that_have_a_candidate_among_their_positives(version):
    assert version.num_queries.tolist() == [1, 1, 2, 0, 1, 0]
    assert version.by_popularity.tolist() == [2, 0, 1, 4, 3, 5]


def test_without_known_positives_the_histories_are_counted(version):
    queries = version.queries.drop_columns(["exclude_ids"])

    assert make_version(queries=queries).num_queries.tolist() == [1, 0, 1, 0, 1, 0]


def test_what_is_known_of_a_query(version):
    known = version.known_query("u1")

    assert known.values == {"city": "Rome"}
    assert known.history == ("a",)
    assert known.known_positives == ("a", "b")
    assert version.known_query("u2").values == {}


@pytest.mark.parametrize("query_id", ["u", "", "../../etc/passwd", "u1\x00"])
def test_nothing_is_known_of_another_query(version, query_id):
    assert version.known_query(query_id) is None

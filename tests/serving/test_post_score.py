"""A function of an installed package between the scores and the answer."""

import numpy as np
import pytest

from serving.post_score import UNKNOWN, adjusted, adjusted_outputs, load_post_score
from serving.similarity import RankedOffer, SimilarityScorer
from tests.serving.test_similarity import CANDIDATES, USERS, write
from tfrs_twotower.schema import UsageError, UserError

MODULE = """\
def favour_b(candidate_ids, scores, inputs):
    scores[candidate_ids == "b"] += 1.0
    return scores

def by_query(candidate_ids, scores, inputs):
    return scores * (inputs["query_id"] == "east")[:, None]
"""
ENTRY_POINTS = """\
[tfrs_twotower.post_score]
favour_b = {module}:favour_b
by_query = {module}:by_query
gone = {module}:gone
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package: a module, and its metadata beside it."""
    site = tmp_path / "site"
    metadata = site / "shop_scores-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "shop_scores.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-scores\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS.format(module="shop_scores"))
    monkeypatch.syspath_prepend(site)
    return site


@pytest.mark.usefixtures("package")
def test_offers_are_ranked_by_what_the_function_returns(tmp_path):
    write(tmp_path / "candidates", "candidate_id", CANDIDATES)
    write(tmp_path / "users", "query_id", USERS)
    scorer = SimilarityScorer(
        tmp_path / "candidates", tmp_path / "users", post_score=load_post_score("favour_b")
    )

    expected = [
        RankedOffer("b", pytest.approx(1.8)),
        RankedOffer("a", pytest.approx(1.0)),
        RankedOffer("x", None),
    ]
    assert scorer.rank("east", ["x", "a", "b"]) == expected
    assert scorer.rank([2.0, 0.0], ["x", "a", "b"]) == expected
    assert scorer.rank("nobody", ["b"]) == [RankedOffer("b", None)]


@pytest.mark.usefixtures("package")
def test_a_server_gives_text_and_repeats_a_list_for_all_queries():
    inputs = {
        "query_id": np.array([b"east", b"north"], object),
        "candidate_ids": np.array([[b"a", b"b"]], object),
    }
    outputs = {"scores": np.array([[1.0, 0.8], [0.0, 0.6]], np.float32)}

    favoured = adjusted_outputs(load_post_score("favour_b"), inputs, outputs)
    of_east = adjusted_outputs(load_post_score("by_query"), inputs, outputs)

    np.testing.assert_allclose(favoured["scores"], [[1.0, 1.8], [0.0, 1.6]])
    np.testing.assert_allclose(of_east["scores"], [[1.0, 0.8], [0.0, 0.0]])
    assert outputs["scores"][0, 1] == np.float32(0.8)


def test_what_is_unknown_stays_unknown():
    scores = np.array([[0.5, UNKNOWN]], np.float32)

    found = adjusted(lambda ids, scores, inputs: scores * 0 + 2, np.array([["a", "x"]]), scores, {})

    assert found.tolist() == [[2.0, UNKNOWN]]


@pytest.mark.parametrize(
    "post_score",
    [lambda ids, scores, inputs: scores[0], lambda ids, scores, inputs: scores * np.nan],
    ids=["shape", "not finite"],
)
def test_a_function_that_returns_something_else_is_refused(post_score):
    with pytest.raises(ValueError, match=r"must return \(1, 1\) finite numbers"):
        adjusted(post_score, np.array([["a"]], object), np.array([[0.5]], np.float32), {})


@pytest.mark.usefixtures("package")
def test_a_name_that_no_package_has_is_told_with_those_there_are():
    with pytest.raises(UsageError, match=r"no installed package .* 'margin': .*favour_b"):
        load_post_score("margin")


@pytest.mark.usefixtures("package")
def test_a_function_that_cannot_be_imported_is_told():
    with pytest.raises(UserError, match=r"cannot import gone \(shop_scores:gone\)"):
        load_post_score("gone")

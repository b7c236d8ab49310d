"""Parameters of a tree: their defaults, their ranges, and what a search by them costs."""

import pytest

from tfrs_twotower.index import IndexParameters
from tfrs_twotower.schema.index import Index


@pytest.mark.parametrize(
    ("num_candidates", "given", "num_leaves", "leaves_to_search"),
    [
        pytest.param(10_000, {}, 100, 10, id="square-root"),
        pytest.param(300, {}, 17, 2, id="small"),
        pytest.param(300, {"num_leaves": 300}, 18, 2, id="too-many"),
        pytest.param(300, {"num_leaves": 20, "leaves_to_search": 1}, 18, 1, id="fewer-than-asked"),
        pytest.param(300, {"leaves_to_search": 99}, 17, 17, id="all"),
    ],
)
def test_leaves_suit_the_corpus(num_candidates, given, num_leaves, leaves_to_search):
    parameters = IndexParameters.for_corpus(num_candidates, **given)

    assert (parameters.num_leaves, parameters.leaves_to_search) == (num_leaves, leaves_to_search)


@pytest.mark.parametrize(
    ("config", "num_candidates"),
    [
        pytest.param(Index(brute_force_below=301), 300, id="below-the-limit"),
        pytest.param(Index(brute_force_below=0), 255, id="too-small-for-a-tree"),
    ],
)
def test_a_small_corpus_is_searched_by_brute_force(config, num_candidates):
    assert IndexParameters.from_config(config, num_candidates) is None


def test_a_config_gives_what_it_names_and_leaves_the_rest_by_default():
    config = Index(brute_force_below=0, num_leaves=40, reorder=60, at=7, anisotropic_threshold=0.3)

    assert IndexParameters.from_config(config, 1000) == IndexParameters(
        num_leaves=40,
        dimensions_per_block=2,
        leaves_to_search=4,
        reorder=60,
        anisotropic_threshold=0.3,
        at=7,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"num_leaves": 0, "leaves_to_search": 1}, "`num_leaves` must be", id="none"),
        pytest.param({"num_leaves": 2, "leaves_to_search": 3}, "at most `num_leaves`", id="more"),
        pytest.param({"num_leaves": 2, "leaves_to_search": 1, "at": 0}, "`at` must be", id="at"),
    ],
)
def test_values_out_of_range_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        IndexParameters(**given)


def test_a_manifest_gives_the_parameters_back():
    parameters = IndexParameters(num_leaves=9, leaves_to_search=3, reorder=50, at=20)
    manifest = {"kind": "scann", "method": "tree_ah", **parameters.as_dict()}

    assert IndexParameters.from_description(manifest) == parameters
    assert IndexParameters.from_description({"kind": "scann", "method": "brute_force"}) is None


def test_cost_is_what_a_query_reads():
    parameters = IndexParameters(
        num_leaves=10, dimensions_per_block=2, leaves_to_search=5, reorder=20
    )

    # 10 centres of 32 bytes, by half; half of 1,000 codes of 2 bytes; 20 rows of 32 bytes, sixfold.
    assert parameters.cost_bytes(1000, 8) == 320 / 2 + 1000 + 6 * 640
